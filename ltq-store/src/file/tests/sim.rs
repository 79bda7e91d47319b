pub(super) use crate::simulation::{Chance, Faults, SimulatedDisk as SimFs};
