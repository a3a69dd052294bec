//! The error code of a page fault (Intel SDM, volume 3, section 4.7).

use pagemove::space::Access;
pub use x86_64::structures::idt::PageFaultErrorCode;

/// Gives the access that faulted, for [`AddressSpace::fault`](pagemove::space::AddressSpace::fault); `None` if no change of mappings can
/// allow it: a reserved bit was set in a table, or a protection key, a shadow stack or an enclave forbids it.
///
/// Whether the access came from ring 3 is [`PageFaultErrorCode::USER_MODE`]. The bit for "present" isn't needed: the engine
/// reads the entry again, since another CPU may have changed it.
pub fn access(code: PageFaultErrorCode) -> Option<Access> {
    use PageFaultErrorCode as Code;
    let others = Code::MALFORMED_TABLE | Code::PROTECTION_KEY | Code::SHADOW_STACK | Code::SGX | Code::RMP;
    if code.intersects(others) {
        None
    } else if code.contains(Code::INSTRUCTION_FETCH) {
        Some(Access::Execute)
    } else if code.contains(Code::CAUSED_BY_WRITE) {
        Some(Access::Write)
    } else {
        Some(Access::Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_is_read() {
        let of = |bits| access(PageFaultErrorCode::from_bits_truncate(bits));
        for user in [0, 4] {
            for present in [0, 1] {
                assert_eq!(of(user | present), Some(Access::Read));
                assert_eq!(of(user | present | 2), Some(Access::Write));
                assert_eq!(of(user | present | 16), Some(Access::Execute));
            }
        }
        for bit in [8, 32, 64, 1 << 15, 1 << 31] {
            assert_eq!(of(bit | 6), None, "bit {bit:#x}");
        }
    }
}
