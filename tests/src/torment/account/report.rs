//! An account in words.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{Account, Became, Told, mode};

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> =
            self.faults.iter().map(|(what, count)| format!("{what} {count}")).collect();
        writeln!(f, "{} faults: {}", self.faults(), kinds.join(", "))?;
        writeln!(f, "registries forgot nodes {} times", self.forgotten)?;
        let mut nodes = BTreeMap::<&str, u64>::new();
        for (node, _) in self.messages.values().filter_map(|it| it.receipt.as_ref()) {
            *nodes.entry(node).or_default() += 1;
        }
        let list = |counts: &mut dyn Iterator<Item = (&str, u64)>| {
            counts.map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(f, "confirmed by {}", list(&mut nodes.into_iter()))?;
        let ways = &mut self.ways.iter().map(|(way, count)| (&**way, *count));
        writeln!(f, "in these ways: {}", list(ways))?;
        let stalled = self.stalls.values().flatten().map(|(from, to)| to - from);
        writeln!(
            f,
            "programs were kept from running for {} ms in all; the latest call ended {} ms after its time",
            stalled.sum::<u64>(),
            self.latest_call_ms()
        )?;
        let overtaken = self.overtaken();
        let modes: BTreeSet<_> = self.messages.keys().map(|(topic, _)| mode(topic)).collect();
        for mode in modes {
            let of: Vec<_> =
                self.messages.iter().filter(|((topic, _), _)| self::mode(topic) == mode).collect();
            let count = |is: &dyn Fn(&Became) -> bool| of.iter().filter(|(_, it)| is(it)).count();
            let confirmed = count(&Became::is_confirmed);
            let unknown = |it: &Became| it.told == Some(Told::Unknown);
            let failed = count(&|it| matches!(it.told, Some(Told::Failed(_))));
            let unheard = |it: &Became| it.told.is_none();
            let lost = count(&|it| it.is_confirmed() && it.taken == 0);
            let twice = count(&|it| it.places.len() > 1);
            let again = count(&|it| it.taken as usize > it.places.len());
            let longest = of.iter().map(|(_, it)| it.took_ms).max().unwrap_or_default();
            let moves = self.moves.iter().filter(|((topic, _), _)| self::mode(topic) == mode);
            let moves: usize = moves.map(|(_, at)| at.len()).sum();
            write!(
                f,
                "{mode}: {confirmed} confirmed of which {lost} are lost, {failed} failed, {} unknown of which {} are \
                 stored, {} whose publisher was killed of which {} are stored, {twice} on two nodes, {again} \
                 delivered again, order moved {moves} times, longest call {longest} ms",
                count(&unknown),
                count(&|it| unknown(it) && it.taken > 0),
                count(&unheard),
                count(&|it| unheard(it) && it.taken > 0),
            )?;
            if self.is_bridged {
                let arrived = count(&|it| it.arrived > 0);
                let repeated = count(&|it| it.arrived as usize > it.arrived_from.len());
                let of_mode = overtaken.iter().filter(|one| self::mode(one.topic) == mode).count();
                write!(
                    f,
                    "; {arrived} over the bridge, {repeated} of them twice, {of_mode} behind later ones"
                )?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
