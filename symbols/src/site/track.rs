//! Where the stack pointer stands at each instruction of a piece of code, by the instructions alone: what is asked
//! where no call frame information tells.

use crate::arch::{EffectsState, Flow, Stack, Step};

/// The stack at each of STEPS, entered at the step number START with ENTRY. `None` where no known way leads: behind
/// computed jumps, for one.
pub(super) fn track(
    steps: &[Step],
    address: u64,
    start: usize,
    entry: Stack,
) -> Vec<Option<Stack>> {
    let mut known: Vec<Option<Stack>> = vec![None; steps.len()];
    let mut effects = EffectsState::new();
    let mut open = Vec::new();
    arrive(&mut known, &mut open, start, entry);
    // Each place is met again only while less becomes known of it: three times at most.
    while let Some(at) = open.pop() {
        let (Some(step), Some(Some(stack))) = (steps.get(at), known.get(at).copied()) else {
            continue;
        };
        let behind = match step.flow {
            Flow::Next | Flow::Call | Flow::Jump { .. } => stack.after(step, &mut effects),
            Flow::JumpAnywhere | Flow::Return | Flow::Trap | Flow::Invalid => continue,
        };
        let mut goes_on = true;
        if let Flow::Jump {
            target,
            conditional,
        } = step.flow
        {
            goes_on = conditional;
            if let Some(to) = number_of(steps, target.wrapping_sub(address)) {
                arrive(&mut known, &mut open, to, behind);
            }
        }
        if goes_on {
            arrive(&mut known, &mut open, at + 1, behind);
        }
    }
    known
}

/// The number of the step at an offset.
pub(super) fn number_of(steps: &[Step], offset: u64) -> Option<usize> {
    let offset = usize::try_from(offset).ok()?;
    steps.binary_search_by_key(&offset, |step| step.at).ok()
}

fn arrive(known: &mut [Option<Stack>], open: &mut Vec<usize>, at: usize, stack: Stack) {
    let Some(place) = known.get_mut(at) else {
        return;
    };
    let met = place.map_or(stack, |before| before.meet(stack));
    if *place != Some(met) {
        *place = Some(met);
        open.push(at);
    }
}
