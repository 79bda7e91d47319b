//! What `--spin` does can only be seen from outside: the program does not sleep. A test binary of
//! its own, since the processor time of children is told for all of them together.

use std::{error::Error, fs, process::Command};

/// User and system time of all children that ended, in ticks: fields 16 and 17 of
/// `/proc/self/stat` (proc(5)).
fn ticks_of_children() -> Result<u64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no command name")?;
    let ticks: Result<Vec<u64>, _> =
        fields.split_whitespace().skip(13).take(2).map(str::parse).collect();
    Ok(ticks?.into_iter().sum())
}

fn latency_run(more: &[&str]) -> Result<u64, Box<dyn Error>> {
    let before = ticks_of_children()?;
    let output = Command::new(env!("CARGO_BIN_EXE_ltq"))
        .args(["--json", "bench", "latency", "--in-process", "--rate", "50"])
        .args(["--duration", "1s", "--warmup", "0s"])
        .args(more)
        .output()?;
    assert!(output.status.success(), "{output:?}");
    let report = String::from_utf8(output.stdout)?;
    assert_eq!(report.contains("\"spin\":true"), !more.is_empty(), "{report}");
    Ok(ticks_of_children()? - before)
}

#[test]
fn spin_keeps_a_processor_busy_and_nothing_else_does() {
    let (sleeping, spinning) = (latency_run(&[]).unwrap(), latency_run(&["--spin"]).unwrap());
    assert!(spinning > 3 * sleeping.max(1), "{sleeping} and {spinning} ticks of a processor");
}
