//! Histories on the hosted machine with the soft TLB.

mod machine;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};

use pagemove::{
    Engine,
    port::Contents,
    space::{AddressSpace, FaultError},
    units::{FrameRange, HUGE_ORDER, VirtAddr},
    zone,
};
use pagemove_hosted::{Config, FIRST_FRAME, ForkError, Hosted, Process, TableFormat, TlbKind, enter_cpu};

use self::machine::SingleThreaded;
use crate::{
    Failure, History, Sabotage, Summary,
    call::TLBS,
    world::{self, Failed, World},
};

/// Virtual CPUs: more than TLBs in use, so that tests on several threads have CPU lists as well.
const CPUS: usize = 2 * TLBS;
/// Frames between two parts of memory: 1 TiB.
const HOLE: u32 = 1 << 28;

/// The machine and its engine, which outlive everything on them.
pub(crate) struct Base {
    engine: Arc<Engine>,
    machine: Arc<SingleThreaded>,
    hosted: Arc<Hosted>,
}

impl World for Base {
    type Format = TableFormat;
    type Process = Process;

    fn boot(blocks: u32, apart: bool) -> Result<Self, String> {
        let frames = blocks * HUGE_ORDER.frames();
        let config = Config { frames, cpus: CPUS, tlb: TlbKind::Soft, contents: Contents::All };
        let (upper, hole) = if apart { (blocks / 2 * HUGE_ORDER.frames(), HOLE) } else { (0, 0) };
        let ram = FrameRange { start: FIRST_FRAME, frames: frames + hole };
        let hosted = Hosted::with_ram(config, ram).map_err(|error| error.to_string())?;
        let machine = SingleThreaded::new(hosted.clone());
        let lower = FrameRange { start: ram.start, frames: frames - upper };
        let upper = FrameRange { start: lower.end().up(hole), frames: upper };
        let zones: Vec<_> = [lower, upper].into_iter().filter(|zone| zone.frames > 0).collect();
        let config = zone::Config::new(zones, HUGE_ORDER);
        let engine = Engine::boot(machine.clone(), &config).map_err(|error| error.to_string())?;
        Ok(Self { engine, machine, hosted })
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn start(&self) -> Result<Process, Failed> {
        Process::new(&self.hosted, &self.engine).map_err(|error| Failed::Other(error.to_string()))
    }

    fn skip_flushes(&self, skip: bool) {
        self.machine.skip_flushes(skip);
    }

    fn caught<R>(f: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
        catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Err(format!("panicked: {}", text.or(panic.downcast_ref().copied()).unwrap_or("?")))
        })
    }
}

impl world::Process<TableFormat> for Process {
    fn space(&self) -> &AddressSpace<TableFormat> {
        self.space()
    }

    fn fork(&self) -> Result<Self, Failed> {
        self.fork().map_err(|error| match error {
            ForkError::Space(error) => Failed::Space(error),
            error => Failed::Other(error.to_string()),
        })
    }

    fn load(&self, cpu: usize, at: VirtAddr) -> Result<u64, FaultError> {
        enter_cpu(cpu);
        self.load(at)
    }

    fn store(&self, cpu: usize, at: VirtAddr, value: u64) -> Result<(), FaultError> {
        enter_cpu(cpu);
        self.store(at, value)
    }
}

/// Runs a history on the hosted machine; gives its statistics, or the failure.
///
/// # Errors
/// When the engine's answer or visible memory differs from the model's; when it panics, is inconsistent, or loses a
/// frame.
pub fn run(history: &History) -> Result<Summary, Failure> {
    crate::run_on::<Base>(history, None)
}

/// Runs a history on a machine with a deliberate fault.
///
/// # Errors
/// As [`run`].
pub fn run_sabotaged(history: &History, sabotage: Sabotage) -> Result<Summary, Failure> {
    crate::run_on::<Base>(history, Some(sabotage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(Base::caught::<()>(|| panic!("so {}", 1)), Err("panicked: so 1".into()));
        assert_eq!(Base::caught(|| Ok(1)), Ok(1));
    }
}
