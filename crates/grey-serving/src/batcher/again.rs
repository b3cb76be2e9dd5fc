//! What runs again after a run that failed: halves of its requests, until one that fails by itself
//! is found. `n` requests need at most `2n - 1` runs more, and one culprit among them about
//! `2 log2(n)`.

use std::collections::VecDeque;

use super::{BatcherConfig, Part};

/// Rows of one key that run together, by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) key: u64,
    /// Runs in one piece and unpadded, whatever the configuration says.
    pub(super) whole: bool,
    /// Their positions are those of the run that failed, and of no use any more.
    pub(super) parts: Vec<Part>,
}

/// Groups in the order in which they run.
#[derive(Debug, Default)]
pub(super) struct Again(VecDeque<Group>);

impl Again {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Queues the parts of a failed run in two halves, before all other groups. A single part is
    /// queued as it is.
    pub(super) fn halve(&mut self, key: u64, whole: bool, mut parts: Vec<Part>) {
        let second = parts.split_off(parts.len().div_ceil(2));
        for parts in [second, parts] {
            if !parts.is_empty() {
                self.0.push_front(Group { key, whole, parts });
            }
        }
    }

    /// The next group, cut to what the configuration allows in one run; the rest stays in front.
    /// The second value says whether a part was cut in two.
    pub(super) fn take(&mut self, config: &BatcherConfig) -> Option<(Group, bool)> {
        let Group { key, whole, parts } = self.0.pop_front()?;
        let (mut now, mut later, mut cut) = (Vec::new(), Vec::new(), false);
        let mut room = if whole { u32::MAX } else { config.max_batch_size.max(1) };
        for part in parts {
            if !later.is_empty() || (!config.enabled && !now.is_empty()) {
                later.push(part);
            } else if !config.enabled || part.rows <= room {
                room -= part.rows.min(room);
                now.push(part);
            } else if room > 0 && now.is_empty() {
                // Larger than a whole run, which had more room when the part was made.
                now.push(Part { rows: room, ..part });
                later.push(Part { first_row: part.first_row + room, rows: part.rows - room, ..part });
                (room, cut) = (0, true);
            } else {
                later.push(part);
            }
        }
        if !later.is_empty() {
            self.0.push_front(Group { key, whole, parts: later });
        }
        let mut position = 0;
        for part in &mut now {
            part.position = position;
            position += part.rows;
        }
        Some((Group { key, whole, parts: now }, cut))
    }

    /// Takes a request out, wherever it is.
    pub(super) fn forget(&mut self, ticket: u64) {
        self.0.retain_mut(|group| {
            group.parts.retain(|p| p.ticket != ticket);
            !group.parts.is_empty()
        });
    }

    /// All requests in it, in order, each as often as it has parts.
    pub(super) fn tickets(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|g| &g.parts).map(|p| p.ticket)
    }
}
