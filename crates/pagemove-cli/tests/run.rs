//! `pagemove run` as a user starts it: small runs end well and say what they promise; bad input, and Ctrl-C, end in one
//! sentence and leave nothing behind.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

fn pagemove(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemove"));
    command.current_dir(dir).args(line.split_whitespace());
    command
}

fn output(dir: &Path, line: &str) -> Output {
    pagemove(dir, line).output().expect("the command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn count(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {value}"))
}

/// Every promise of a run: words are right, and the more a policy moves the more blocks become free.
fn holds(dir: &Path, line: &str) -> Value {
    let output = output(dir, line);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{line}: {stderr}");
    let results: Value = serde_json::from_slice(&output.stdout).expect("one JSON object on stdout");
    let policies = results["policies"].as_array().expect("policies");
    for policy in policies {
        assert_eq!((count(policy, "lost_writes"), count(policy, "stale_reads")), (0, 0), "{line}: {policy}");
        assert!(count(policy, "words_checked") > 1000, "{policy}");
        assert_eq!(count(policy, "free_blocks_before"), count(&policies[0], "free_blocks_before"));
        for field in ["p50", "p99", "max"] {
            assert!(policy["blocked_us"][field].is_number(), "{policy}");
        }
        assert!(policy["seconds"].is_number() && policy["not_moved"].is_object(), "{policy}");
    }
    for pair in policies.windows(2) {
        assert!(count(&pair[0], "free_blocks_after") <= count(&pair[1], "free_blocks_after"), "{line}: {results}");
        assert!(
            count(&pair[0], "hostage_blocks_after") >= count(&pair[1], "hostage_blocks_after"),
            "{line}: {results}"
        );
    }
    results
}

#[test]
fn a_small_run_holds_on_either_tlb() {
    for tlb in ["soft", "host"] {
        let dir = tempfile::tempdir().expect("a folder");
        let line = format!("run --layout sample --memory 128M --seed 7 --tlb {tlb} --json --report deep/er");
        let results = holds(dir.path(), &line);
        let names: Vec<_> = results["policies"].as_array().unwrap().iter().map(|policy| &policy["policy"]).collect();
        assert_eq!(names, ["unmovable", "unmapped", "any"]);
        let (unmapped, any) = (&results["policies"][1], &results["policies"][2]);
        assert!(count(any, "free_blocks_after") > count(unmapped, "free_blocks_after"), "{results}");
        assert!(count(any, "hostage_blocks_after") < count(unmapped, "hostage_blocks_after"), "{results}");
        assert_eq!(results["seed"], 7);
        assert_eq!(results["layout"], serde_json::json!({"source": "sample", "frames": 32768, "pageblock_order": 9}));
        assert!(results["throughput"]["moved_gb_per_s"].as_f64() > Some(0.0), "{results}");
        assert!(results["throughput"]["memcpy_gb_per_s"].as_f64() > Some(0.0), "{results}");
        let fields: Vec<_> = results.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["layout", "policies", "seed", "throughput"]);
        let page = fs::read_to_string(dir.path().join("deep/er/report.html")).expect("a report");
        assert!(page.contains("No data was lost.") && page.contains("--seed 7 --layout sample --memory 128M"));
        assert_eq!(fs::read_dir(dir.path().join("deep/er")).unwrap().count(), 1);
    }
}

/// The state before compaction, and so what compaction gains, are the seed's alone.
#[test]
fn a_seed_repeats_the_state_and_another_changes_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let before = |seed: u32, tlb: &str| {
        let line = format!("--layout sample --memory 64M --seed {seed} --policy any --cpus 1 --tlb {tlb} --quiet");
        let output = output(dir.path(), &line);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{}", text(&output.stderr));
        let page = fs::read_to_string(dir.path().join("pagemove-report/report.html")).expect("a report");
        let start = page.find("data-before=").expect("a picture");
        page[start..start + page[start..].find("data-after").expect("another")].to_owned()
    };
    assert_eq!(before(1, "soft"), before(1, "host"));
    assert_ne!(before(1, "soft"), before(2, "soft"));
}

/// Whatever is wrong is said in one sentence, before any work, with code 2; and nothing is left behind.
#[test]
fn bad_input_is_refused_in_a_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    let sample = output(dir.path(), "survey --layout sample --blocks 64 --save whole.layout");
    assert!(sample.status.success(), "{}", text(&sample.stderr));
    let whole = fs::read(dir.path().join("whole.layout")).unwrap();
    fs::write(dir.path().join("truncated.layout"), &whole[..whole.len() / 2]).unwrap();
    fs::write(dir.path().join("text.layout"), "free 512").unwrap();
    fs::write(dir.path().join("empty.layout"), "").unwrap();
    let json = |zones: &str, runs: &str| {
        let body = format!(
            r#"{{"format":"pagemove-layout","version":1,"source":"test","pageblock_order":9,"zones":[{zones}],"runs":[{runs}]}}"#
        );
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, body.as_bytes()).unwrap();
        gzip.finish().unwrap()
    };
    let zone = r#"{"name":"Normal","node":0,"start_pfn":0,"spanned":512,"present":512}"#;
    fs::write(dir.path().join("contradiction.layout"), json(zone, r#"["free",511]"#)).unwrap();
    fs::write(dir.path().join("full.layout"), json(zone, r#"["slab",512]"#)).unwrap();
    let large = r#"{"name":"Normal","node":0,"start_pfn":0,"spanned":16384,"present":16384}"#;
    fs::write(dir.path().join("crowded.layout"), json(large, r#"["free",1100],["slab",15284]"#)).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let before: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    for (line, word) in [
        ("--layout no-such.layout", "no-such.layout"),
        ("--layout .", "can't read"),
        ("--layout truncated.layout", "truncated"),
        ("--layout text.layout", "isn't gzip"),
        ("--layout empty.layout", "isn't gzip"),
        ("--layout contradiction.layout", "511"),
        ("--layout full.layout --memory 64M", "free"),
        ("--layout crowded.layout --memory 64M", "can be checked"),
        ("--memory 0", "64M"),
        ("--memory 1M", "64M"),
        ("--memory 65M", "2 MiB"),
        ("--memory many", "512M or 2G"),
        ("--memory -3G", "--memory"),
        ("--memory 900G --layout sample", "memory"),
        ("--memory 99999999999999999T", "1T"),
        ("--cpus 0", "1..=64"),
        ("--cpus 1000", "1..=64"),
        ("--tlb hardware", "soft, host"),
        ("--policy some", "unmovable, unmapped, any"),
        ("--seed x", "--seed"),
        ("--seed -1", "--seed"),
        ("--frobnicate", "--frobnicate"),
        ("walk", "walk"),
        ("--report file/below --layout sample", "file"),
        ("--report /proc/nowhere --layout sample", "/proc"),
    ] {
        for prefix in ["", "run "] {
            let output = output(dir.path(), &format!("{prefix}{line}"));
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{prefix}{line}: {stderr}");
            assert!(stderr.contains(word), "{word:?} is not in what `{line}` says: {stderr}");
            assert!(!stderr.contains("panicked") && output.stdout.is_empty(), "{line}: {stderr}");
        }
    }
    let after: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(before, after);
}

#[test]
fn ctrl_c_stops_at_any_time_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    for (signal, wait_ms) in [("INT", 0), ("INT", 500), ("TERM", 1500)] {
        let line = "--layout sample --memory 1G --seed 5 --report here";
        let mut child = pagemove(dir.path(), line).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // From its first message on, signals are caught.
        let mut messages = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut stderr = String::new();
        messages.read_line(&mut stderr).expect("a message");
        std::thread::sleep(Duration::from_millis(wait_ms));
        let kill = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
        assert!(kill.expect("kill").success());
        let start = Instant::now();
        messages.read_to_string(&mut stderr).expect("messages");
        let output = child.wait_with_output().unwrap();
        // Generous, for a busy machine: a run that doesn't look takes minutes there.
        assert!(start.elapsed() < Duration::from_secs(60), "it takes {:?} to stop", start.elapsed());
        assert_eq!(output.status.code(), Some(130), "{signal} after {wait_ms} ms: {stderr}");
        assert!(stderr.ends_with("pagemove: stopped; nothing was written\n"), "{stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// Who reads no further, as `| head` does, ends neither in a panic nor in an error.
#[test]
fn readers_may_go_away() {
    let dir = tempfile::tempdir().expect("a folder");
    let line = "--layout sample --memory 64M --seed 3 --policy unmovable";
    let mut child = pagemove(dir.path(), line).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
