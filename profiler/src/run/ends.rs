//! Ends of calls that do not go as planned: too many are open for the kernel to follow, or several on one stack.

use uprof_ebpf::Returns;
use uprof_recipes as recipes;

use super::Run;
use crate::plan::Variant;

impl Run {
    /// Where the kernel lost returns, since too many calls were open on a thread: from here on by probes on exits.
    pub(super) fn follow_deeper(&mut self) {
        for index in 0..self.plan.variants.len() {
            let variant = &self.plan.variants[index];
            if variant.pairing.returns != Returns::Replaced
                || self.engine.counters(index).nested == 0
                || self.plan.chosen_returns(variant) != recipes::Returns::Auto
                || !self.followed.insert(index)
            {
                continue;
            }
            let name = self.plan.recipe.probes[variant.probe].name.clone();
            let note = match self.engine.use_exits(index) {
                Ok(true) => {
                    self.plan.variants[index].pairing.returns = Returns::Exits;
                    format!(
                        "{name}: more calls were open on a thread than the 64 that the kernel follows; from here on \
                         returns are seen by probes on the exits"
                    )
                }
                Ok(false) => continue,
                Err(e) => format!("{name}: probes on the exits: {e}"),
            };
            eprintln!("uprof: {note}");
            self.plan.note(note);
        }
    }

    /// Coroutines that take turns on one stack cannot be told apart without being told how.
    pub(super) fn tell_shared_stacks(&mut self) {
        let doubtful = |(index, v): &(usize, &Variant)| {
            self.plan.may_share_stacks(v) && self.engine.counters(*index).abandoned > 0
        };
        let variants = self.plan.variants.iter().enumerate();
        let names: Vec<&str> = variants
            .filter(doubtful)
            .map(|(_, v)| self.plan.recipe.probes[v.probe].name.as_str())
            .collect();
        if !names.is_empty() {
            let note = format!(
                "calls of {} began where another one had been open: those were left, or coroutines take turns on one \
                 stack. Then latencies are mixed up, unless a recipe says who runs: [frame] in docs/recipes.md",
                names.join(", ")
            );
            self.plan.note(note);
        }
    }
}
