//! Layers unpacked: what archives may say, and what they may not do.

use std::fs;

use super::{archive, tree};
use crate::{ImageError, unpack::unpack};

/// Unpacks beside a directory `outside`, and says what is in the layer or why it was refused.
fn unpacked(layer: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    for name in ["layer", "outside"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("outside/precious"), "untouched").unwrap();
    let layer = layer.replace("OUTSIDE", dir.path().join("outside").to_str().unwrap());
    let result = unpack(&mut &archive(&layer)[..], &dir.path().join("layer"));
    assert_eq!(tree(&dir.path().join("outside")), "precious untouched", "{layer}");
    match result {
        Ok(()) => tree(&dir.path().join("layer")).replace(dir.path().join("outside").to_str().unwrap(), "OUTSIDE"),
        Err(ImageError::Malformed(_)) => "refused".to_owned(),
        Err(error) => format!("failed: {error}").replace(dir.path().to_str().unwrap(), ""),
    }
}

/// As `umoci insert` writes layers.
#[test]
fn an_archive_may_end_with_its_last_file() {
    let whole = archive("file a x | file b content");
    let end = whole.windows(7).position(|bytes| bytes == b"content").unwrap() + 7;
    let unpacked = |n_bytes: usize| {
        let dir = tempfile::tempdir().unwrap();
        unpack(&mut &whole[..n_bytes], dir.path()).map(|()| tree(dir.path()))
    };
    assert_eq!(unpacked(end).unwrap(), "a x\nb content");
    // A file that has lost some of its bytes, or all, or half of its header.
    for n_bytes in [end - 1, end - 7, end - 7 - 100] {
        assert!(unpacked(n_bytes).is_err(), "{n_bytes}");
    }
}

#[test]
fn names_stay_inside() {
    assert_eq!(unpacked("file ../outside/precious x"), "refused");
    assert_eq!(unpacked("file a/../../outside/precious x"), "refused");
    assert_eq!(unpacked("file /etc/passwd x"), "etc/\netc/passwd x");
    assert_eq!(unpacked("dir . | dir / | file ./a x"), "a x");
}

#[test]
fn links_lead_nowhere_outside() {
    // The link is kept as it is, since in a container it means something else; what goes through it stays inside.
    assert!(unpacked("link out OUTSIDE | file out/precious x").starts_with("failed"));
    assert!(unpacked("link out ../outside | file out/precious x").starts_with("failed"));
    assert_eq!(unpacked("dir real | link dir /real | file dir/a x"), "dir -> /real\nreal/\nreal/a x");
    assert_eq!(unpacked("link a OUTSIDE/precious | file a x"), "a x");
    assert_eq!(unpacked("link a OUTSIDE | dir a | file a/b x"), "a/\na/b x");
}

#[test]
fn hard_links_stay_inside() {
    assert_eq!(unpacked("hard a OUTSIDE/precious"), "refused");
    assert_eq!(unpacked("hard a ../outside/precious"), "refused");
    assert_eq!(unpacked("link out OUTSIDE | hard a out/precious | file a x"), "refused");
    // Linking to a link links the link.
    assert_eq!(unpacked("link l OUTSIDE/precious | hard a l | file a x"), "a x\nl -> OUTSIDE/precious");
}

#[test]
fn whiteouts_stay_inside() {
    assert!(unpacked("link out OUTSIDE | gone out/precious").starts_with("failed"));
    assert_eq!(unpacked("file .wh... x"), "refused");
    assert_eq!(unpacked("file .wh.. x"), "refused");
    assert_eq!(unpacked("file .wh. x"), "refused");
    assert_eq!(unpacked("node a 0:0"), "refused");
}

#[test]
fn later_entries_replace_earlier_ones() {
    assert_eq!(unpacked("file a 1 | file a 2"), "a 2");
    assert_eq!(unpacked("dir a | file a/b 1 | file a 2"), "a 2");
    assert_eq!(unpacked("file a 1 | dir a | file a/b 2"), "a/\na/b 2");
    assert_eq!(unpacked("dir a | file a/b 1 | link a elsewhere"), "a -> elsewhere");
    assert_eq!(unpacked("dir a | file a/b 1 | file a 2 | dir a | file a/c 3"), "a/\na/c 3");
}

#[test]
fn a_layer_cannot_direct_the_mount() {
    let dir = tempfile::tempdir().unwrap();
    let layer = archive("xattr a trusted.overlay.redirect /etc | xattr b user.kept yes");
    unpack(&mut &layer[..], dir.path()).unwrap();
    assert_eq!(xattr::get(dir.path().join("a"), "trusted.overlay.redirect").unwrap(), None);
    assert_eq!(xattr::get(dir.path().join("b"), "user.kept").unwrap().as_deref(), Some(&b"yes"[..]));
}

#[test]
fn a_damaged_archive_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut layer = archive("file a hello");
    layer[3] ^= 0xff;
    assert!(matches!(unpack(&mut &layer[..], dir.path()), Err(ImageError::Malformed(_))));
    let layer = archive("file a hello");
    assert!(unpack(&mut &layer[..514], dir.path()).is_err());
}

/// Bytes of headers are turned at random. Whatever comes of it is refused or stays inside; nothing panics.
#[test]
fn no_archive_reaches_outside() {
    let original = archive(
        "dir etc | file etc/passwd root | link out ../outside | link abs /etc | hard h etc/passwd | gone etc/x | \
         opaque etc | node null 1:3 | dir out | file out/precious gone | xattr p user.a b | file z last",
    );
    let mut dice: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut roll = |n: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        usize::try_from(dice % n as u64).unwrap()
    };
    let interesting = b"/.\0\x01\xff0125whp-";
    for round in 0..400 {
        let dir = tempfile::tempdir().unwrap();
        for name in ["layer", "outside"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("outside/precious"), "untouched").unwrap();
        let mut layer = original.clone();
        for _ in 0..=roll(4) {
            // Names, links and kinds stand at the beginning of a block.
            let header = roll(layer.len() / 512) * 512;
            let field = [0, 100, 124, 156, 157, 329][roll(6)];
            let at = header + field + roll(12);
            layer[at] = interesting[roll(interesting.len())];
            let sum: u32 = layer[header..header + 512]
                .iter()
                .enumerate()
                .map(|(n, byte)| if (148..156).contains(&n) { 32 } else { u32::from(*byte) })
                .sum();
            layer[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let _ = unpack(&mut &layer[..], &dir.path().join("layer"));
        assert_eq!(tree(&dir.path().join("outside")), "precious untouched", "round {round}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "round {round}");
    }
}
