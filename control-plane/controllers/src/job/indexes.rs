//! Sets of completion indexes, as statuses and policies write them: `1,3-5,7`.

use std::collections::BTreeSet;

/// Indexes in a text; what makes no sense counts for nothing, and nothing above `below` is one.
pub fn parse(text: &str, below: u32) -> BTreeSet<u32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else { continue };
        indexes.extend(first..last.saturating_add(1).min(below));
    }
    indexes
}

/// Three and more in a row are a range; two are told one by one or as a range all the same.
pub fn format(indexes: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let told = ranges.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    told.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_written() {
        for text in ["", "0", "1,2", "0-2,4,6-9"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(format(&parse("0-4294967295,x,7-", 3)), "0-2");
    }
}
