//! Compares a run of the bench with an earlier one.

use super::results::{Figure, Measured, PROFILER};

/// The share of a whole operation by which two boots of one kernel differ. A smaller difference means nothing.
const BETWEEN_BOOTS: f64 = 0.005;

/// Whether the variant is a part of the profiler, not another tool.
fn is_ours(variant: &str) -> bool {
    variant == PROFILER || variant.ends_with(" only")
}

/// The variants of the profiler whose cost has risen since `old` by more than the spread of both runs, one line
/// each.
pub fn dearer(old: &Measured, new: &Measured) -> Vec<String> {
    let mut lines = Vec::new();
    for workload in &new.workloads {
        for variant in new.variants.iter().filter(|variant| is_ours(variant)) {
            let costs = old
                .cost(workload, variant)
                .zip(new.cost(workload, variant))
                .zip(new.figure(workload, variant));
            let Some(((before, now), whole)) = costs else {
                continue;
            };
            let allowed = allowed(before, now, whole);
            if now.median - before.median > allowed {
                lines.push(format!(
                    "{workload}, {variant}: {:.0} {} where it was {:.0} (allowed: {allowed:.0} more)",
                    now.median, new.unit, before.median
                ));
            }
        }
    }
    lines
}

fn allowed(before: Figure, now: Figure, whole: Figure) -> f64 {
    before.spread + now.spread + whole.median * BETWEEN_BOOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(cost: u32) -> Measured {
        let text = format!(
            "{{\"variant\":\"nothing\",\"workload\":\"read\",\"values\":[1000,1000,1001]}}\n\
             {{\"variant\":\"zc-profiler\",\"workload\":\"read\",\"values\":[{0},{0},{0}]}}",
            1000 + cost
        );
        Measured::parse("Linux", "instructions", &text).unwrap()
    }

    #[test]
    fn only_what_is_clearly_dearer_is_named() {
        let old = measured(800);
        assert_eq!(dearer(&old, &measured(800)), Vec::<String>::new());
        assert_eq!(dearer(&old, &measured(805)), Vec::<String>::new());
        assert_eq!(dearer(&old, &measured(500)), Vec::<String>::new());
        let lines = dearer(&old, &measured(900));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("read, zc-profiler: 900"), "{lines:?}");
    }

    #[test]
    fn other_tools_may_become_dearer() {
        assert!(is_ours("zc-profiler") && is_ours("faults only"));
        assert!(!is_ours("syscount") && !is_ours("nothing"));
    }

    #[test]
    fn what_was_not_measured_before_is_not_compared() {
        let new = measured(900);
        assert_eq!(dearer(&Measured::default(), &new), Vec::<String>::new());
    }
}
