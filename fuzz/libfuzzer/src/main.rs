//! One target, which the variable `LTQ_FUZZ_TARGET` names: see `scripts/fuzz.sh`.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("LTQ_FUZZ_TARGET").unwrap_or_default();
    let known = ltq_fuzz::TARGETS.iter().find(|(known, _)| *known == name);
    known.unwrap_or_else(|| panic!("LTQ_FUZZ_TARGET={name:?} is no target")).1
});

fuzz_target!(|data: &[u8]| TARGET(data));
