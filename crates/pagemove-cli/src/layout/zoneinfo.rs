//! `/proc/zoneinfo`: the zones, and how many frames Linux itself says are free.
//!
//! Takes the file's text, gives its zones that have frames, and ranges of PFNs that don't overlap. Promises no panic
//! on any text.

use super::memory_blocks::Online;

/// What one zone of `/proc/zoneinfo` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ZoneInfo {
    pub(super) name: String,
    pub(super) node: u32,
    pub(super) start_pfn: u64,
    pub(super) spanned: u64,
    pub(super) present: u64,
    /// Frames that the allocator was given.
    pub(super) managed: u64,
    /// Frames on the buddy allocator's free lists.
    pub(super) free: u64,
    /// Free frames on the lists of single CPUs, which aren't in `free`.
    pub(super) per_cpu: u64,
}

/// Returns the zones that have frames, in the order of the file.
pub(super) fn parse(text: &str) -> Vec<ZoneInfo> {
    let mut zones: Vec<ZoneInfo> = Vec::new();
    for line in text.lines() {
        if let Some((node, name)) = line.strip_prefix("Node ").and_then(|rest| rest.split_once(", zone")) {
            let node = node.trim().parse().unwrap_or_default();
            zones.push(ZoneInfo { name: name.trim().to_owned(), node, ..ZoneInfo::default() });
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(zone), Some(key)) = (zones.last_mut(), words.next()) else {
            continue;
        };
        let Some(value) = words.next().and_then(|word| word.parse::<u64>().ok()) else {
            continue;
        };
        match key {
            "spanned" => zone.spanned = value,
            "present" => zone.present = value,
            "managed" => zone.managed = value,
            "start_pfn:" => zone.start_pfn = value,
            "nr_free_pages" => zone.free = value,
            "count:" => zone.per_cpu += value,
            _ => {}
        }
    }
    // Linux prints no first PFN for a zone without frames.
    zones.retain(|zone| zone.present > 0 && zone.spanned > 0);
    zones
}

/// A part of a zone that no other zone reaches into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Number of the zone.
    pub(super) zone: usize,
    pub(super) start_pfn: u64,
    pub(super) end_pfn: u64,
}

/// Returns the zones' ranges by rising PFN, cut so that they don't overlap, and to what of them is online, if that is known.
///
/// With hot-plugged memory a zone may span another of its node. `/proc/kpageflags` doesn't say to which of
/// them a frame belongs; the smaller is then the one that lies in a hole of the larger. So also with nodes that interleave, if the kernel doesn't say
/// which frames are of which.
pub(super) fn pieces(zones: &[ZoneInfo], online: &[Online]) -> Vec<Piece> {
    let mut by_size: Vec<usize> = (0..zones.len()).collect();
    by_size.sort_by_key(|&zone| zones[zone].spanned);
    let mut pieces: Vec<Piece> = Vec::new();
    for Piece { zone, start_pfn: mut from, end_pfn: end } in
        by_size.into_iter().flat_map(|zone| parts(zones, zone, online))
    {
        let mut gaps = Vec::new();
        for taken in &pieces {
            if taken.end_pfn > from && taken.start_pfn < end {
                gaps.push(Piece { zone, start_pfn: from, end_pfn: taken.start_pfn.max(from) });
                from = taken.end_pfn;
            }
        }
        gaps.push(Piece { zone, start_pfn: from, end_pfn: end });
        pieces.extend(gaps.into_iter().filter(|gap| gap.start_pfn < gap.end_pfn));
        pieces.sort_by_key(|piece| piece.start_pfn);
    }
    pieces
}

/// Gives the parts of a zone that are online, or all of it.
fn parts(zones: &[ZoneInfo], zone: usize, online: &[Online]) -> Vec<Piece> {
    let ZoneInfo { ref name, node, start_pfn, spanned, .. } = zones[zone];
    let whole = Piece { zone, start_pfn, end_pfn: start_pfn.saturating_add(spanned) };
    // Device memory is in no block.
    if name == "Device" || !online.iter().any(|range| range.node == node) {
        return vec![whole];
    }
    let cut = |range: &Online| Piece {
        zone,
        start_pfn: range.start_pfn.max(whole.start_pfn),
        end_pfn: range.end_pfn.min(whole.end_pfn),
    };
    let of_node = online.iter().filter(|range| range.node == node);
    of_node.map(cut).filter(|part| part.start_pfn < part.end_pfn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 1204
  pages free     3840
        boost    0
        spanned  4095
        present  3998
        managed  3840
      nr_free_pages 3840
  pagesets
    cpu: 0
              count:    5
              high:     0
    cpu: 1
              count:    7
  node_unreclaimable:  0
  start_pfn:           1
Node 1, zone   Movable
  pages free     0
        spanned  0
        present  0
        managed  0
";

    #[test]
    fn zones_with_frames_are_read() {
        let dma = ZoneInfo {
            name: "DMA".into(),
            node: 0,
            start_pfn: 1,
            spanned: 4095,
            present: 3998,
            managed: 3840,
            free: 3840,
            per_cpu: 12,
        };
        assert_eq!(parse(TEXT), [dma]);
        assert_eq!(parse("spanned 3\nNode x\n\nNode 0, zone\n spanned\n present 18446744073709551616"), []);
    }

    fn cut(zones: &[(u64, u64)]) -> Vec<(usize, u64, u64)> {
        let zones: Vec<_> =
            zones.iter().map(|&(start_pfn, spanned)| ZoneInfo { start_pfn, spanned, ..ZoneInfo::default() }).collect();
        pieces(&zones, &[]).iter().map(|piece| (piece.zone, piece.start_pfn, piece.end_pfn)).collect()
    }

    #[test]
    fn a_zone_inside_another_splits_it() {
        assert_eq!(cut(&[(0, 10), (10, 90)]), [(0, 0, 10), (1, 10, 100)]);
        assert_eq!(
            cut(&[(0, 100), (20, 10), (50, 20)]),
            [(0, 0, 20), (1, 20, 30), (0, 30, 50), (2, 50, 70), (0, 70, 100)]
        );
        assert_eq!(cut(&[(0, 60), (40, 50)]), [(0, 0, 40), (1, 40, 90)]);
        assert_eq!(cut(&[(5, 5), (5, 5)]), [(0, 5, 10)]);
    }

    #[test]
    fn what_is_online_decides_where_nodes_interleave() {
        let zone = |node, start_pfn, spanned| ZoneInfo { node, start_pfn, spanned, ..ZoneInfo::default() };
        let zones = [zone(0, 0, 60), zone(1, 20, 60)];
        let online = |node, start_pfn, end_pfn| Online { node, start_pfn, end_pfn };
        let ranges = [online(0, 0, 20), online(1, 20, 40), online(0, 40, 60), online(1, 60, 100)];
        let found: Vec<_> = pieces(&zones, &ranges).iter().map(|at| (at.zone, at.start_pfn, at.end_pfn)).collect();
        assert_eq!(found, [(0, 0, 20), (1, 20, 40), (0, 40, 60), (1, 60, 80)]);
        // A node of which nothing is known is taken whole, but for what is known to be another one's; a hole is no memory.
        let found: Vec<_> = pieces(&zones, &[online(0, 0, 10), online(0, 50, 60)])
            .iter()
            .map(|at| (at.zone, at.start_pfn, at.end_pfn))
            .collect();
        assert_eq!(found, [(0, 0, 10), (1, 20, 50), (0, 50, 60), (1, 60, 80)]);
    }
}
