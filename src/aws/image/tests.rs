use std::{collections::BTreeMap, io::Read, os::unix::fs::PermissionsExt};

use serde_json::Value;

use super::*;

/// The header of a program of Linux, and, where it is linked dynamically, of the segment that names its loader.
fn elf(machine: u16, interpreter: Option<&str>) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    bytes[16..18].copy_from_slice(&3_u16.to_le_bytes());
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes[24..32].copy_from_slice(&0x1000_u64.to_le_bytes());
    bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
    bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
    // One to be loaded before the one that counts.
    let segments = if interpreter.is_some() { 2_u16 } else { 1 };
    bytes[56..58].copy_from_slice(&segments.to_le_bytes());
    let mut load = [0; 56];
    load[0] = 1;
    bytes.extend(load);
    if let Some(path) = interpreter {
        let mut segment = [0; 56];
        segment[0] = 3;
        segment[8..16].copy_from_slice(&(64 + 2 * 56_u64).to_le_bytes());
        segment[32..40].copy_from_slice(&(path.len() as u64 + 1).to_le_bytes());
        bytes.extend(segment);
        bytes.extend(path.bytes());
        bytes.push(0);
    }
    bytes
}

/// A file with these bytes; the folder goes with it.
fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// A static program with something in it that can be compressed, and whose length is no multiple of a block.
fn program() -> Vec<u8> {
    let mut bytes = elf(62, None);
    bytes.extend((0..300_001_u32).flat_map(|n| (n / 7).to_le_bytes()));
    bytes
}

async fn image(bytes: &[u8], epoch_s: u64) -> Image {
    let (_folder, path) = file(bytes);
    Image::build(&Program::read(&path).unwrap(), None, epoch_s).await.unwrap()
}

fn json(blob: &Blob) -> Value {
    serde_json::from_slice(&std::fs::read(&blob.path).unwrap()).unwrap()
}

fn unpacked(layer: &Blob) -> Vec<u8> {
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(File::open(&layer.path).unwrap()).read_to_end(&mut tar).unwrap();
    tar
}

#[test]
fn programs_are_told_by_their_header() {
    let loader = "/lib64/ld-linux-x86-64.so.2";
    for (machine, interpreter, architecture) in
        [(62, None, Architecture::Amd64), (183, None, Architecture::Arm64), (62, Some(loader), Architecture::Amd64)]
    {
        let (_folder, path) = file(&elf(machine, interpreter));
        let program = Program::read(&path).unwrap();
        assert_eq!((program.architecture, program.interpreter.as_deref()), (architecture, interpreter));
        assert_eq!(program.runs_alone().is_ok(), interpreter.is_none());
        if interpreter.is_some() {
            let said = program.runs_alone().unwrap_err().to_string();
            assert!(said.contains(loader) && said.contains(STATIC_BUILD) && said.contains("--base-image"), "{said}");
        }
    }
}

#[test]
fn what_is_no_program_of_linux_is_refused_with_what_it_is() {
    let changed = |at: usize, value: u8| {
        let mut bytes = elf(62, None);
        bytes[at] = value;
        bytes
    };
    let no_entry = [&elf(62, None)[..24], &[0; 8], &elf(62, None)[32..]].concat();
    for (bytes, what) in [
        (b"\xcf\xfa\xed\xfe\x07\0\0\x01".to_vec(), "a program of macOS"),
        (b"\xca\xfe\xba\xbe\0\0\0\x02".to_vec(), "a program of macOS"),
        (b"MZ\x90\0".to_vec(), "a program of Windows"),
        (b"#!/bin/sh\n".to_vec(), "a script"),
        (b"".to_vec(), "an empty file"),
        (b"hello".to_vec(), "no program"),
        (elf(62, None)[..40].to_vec(), "no program"),
        (changed(4, 1), "a program of 32 bits"),
        (changed(7, 9), "a program of another system"),
        (changed(16, 1), "a library"),
        (no_entry, "a library"),
        (changed(18, 243), "ELF machine 243"),
    ] {
        let (_folder, path) = file(&bytes);
        let said = Program::read(&path).unwrap_err().to_string();
        assert!(said.contains(what), "{what}: {said}");
    }
    // A header that leads out of the file is an error, not an end.
    let (_folder, path) = file(&changed(39, 0xff));
    assert!(Program::read(&path).is_err());
}

#[tokio::test]
async fn the_same_program_gives_the_same_image() {
    let (one, two) = (image(&program(), 0).await, image(&program(), 0).await);
    assert_eq!(one.digest(), two.digest());
    let mut other = program();
    *other.last_mut().unwrap() ^= 1;
    assert_ne!(one.digest(), image(&other, 0).await.digest());
    assert_ne!(one.digest(), image(&program(), 1_700_000_000).await.digest());
    // From whom a file is, what it is called, and when it was changed, are nothing to the image.
    let (_folder, path) = file(&program());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    let moved = path.with_file_name("another");
    std::fs::rename(&path, &moved).unwrap();
    let third = Image::build(&Program::read(&moved).unwrap(), None, 0).await.unwrap();
    assert_eq!(one.digest(), third.digest());
}

/// The entries of an archive, read by another hand than the one that wrote it.
fn entries(tar: &[u8]) -> Vec<(String, u32, u64, Vec<u8>)> {
    let octal = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).unwrap().trim_end_matches(['\0', ' ']);
        u64::from_str_radix(text, 8).unwrap()
    };
    let (mut at, mut found) = (0, Vec::new());
    while tar[at] != 0 {
        let block = &tar[at..at + 512];
        let sum: u64 = (0..512).map(|n| if (148..156).contains(&n) { 32 } else { u64::from(block[n]) }).sum();
        assert_eq!(octal(&block[148..156]), sum);
        assert_eq!(&block[257..265], b"ustar\x0000");
        assert_eq!((octal(&block[108..116]), octal(&block[116..124])), (0, 0), "owned by 0:0");
        let name = std::str::from_utf8(&block[..100]).unwrap().trim_end_matches('\0').to_owned();
        let size = octal(&block[124..136]) as usize;
        assert_eq!(block[156], if name.ends_with('/') { b'5' } else { b'0' });
        let content = tar[at + 512..at + 512 + size].to_vec();
        found.push((name, octal(&block[100..108]) as u32, octal(&block[136..148]), content));
        at += 512 + size.div_ceil(512) * 512;
    }
    assert_eq!((&tar[at..], tar.len() % 512), (&[0; 1024][..], 0), "two empty blocks at the end");
    found
}

#[tokio::test]
async fn the_layer_has_what_a_process_needs_and_nothing_else() {
    let image = image(&program(), 1_700_000_000).await;
    let entries = entries(&unpacked(&image.layers[0]));
    let listed: Vec<(&str, u32)> = entries.iter().map(|(name, mode, ..)| (name.as_str(), *mode)).collect();
    assert_eq!(
        listed,
        [
            ("etc/", 0o755),
            ("etc/group", 0o644),
            ("etc/nsswitch.conf", 0o644),
            ("etc/passwd", 0o644),
            ("etc/ssl/", 0o755),
            ("etc/ssl/certs/", 0o755),
            ("etc/ssl/certs/ca-certificates.crt", 0o644),
            ("tmp/", 0o1777),
            ("vitals", 0o755),
        ]
    );
    assert!(listed.is_sorted());
    assert!(entries.iter().all(|(_, _, time, _)| *time == 1_700_000_000));
    let content: BTreeMap<&str, &[u8]> = entries.iter().map(|entry| (entry.0.as_str(), entry.3.as_slice())).collect();
    assert_eq!(content["vitals"], program());
    let authorities = std::str::from_utf8(content["etc/ssl/certs/ca-certificates.crt"]).unwrap();
    assert!(authorities.matches("-----BEGIN CERTIFICATE-----").count() > 100);
    assert!(authorities.lines().all(|line| line.len() <= 64));
}

#[tokio::test]
async fn manifest_and_configuration_agree_with_the_layer() {
    let image = image(&elf(183, None), 0).await;
    let manifest = json(&image.manifest);
    assert_eq!(manifest["schemaVersion"], 2);
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
    for (blob, descriptor) in [(&image.config, &manifest["config"]), (&image.layers[0], &manifest["layers"][0])] {
        let bytes = std::fs::read(&blob.path).unwrap();
        assert_eq!(descriptor["digest"], digest_of(&bytes));
        assert_eq!(descriptor["size"], bytes.len());
    }
    assert_eq!(image.digest(), digest_of(&std::fs::read(&image.manifest.path).unwrap()));
    let config = json(&image.config);
    assert_eq!((&config["os"], &config["architecture"]), (&"linux".into(), &"arm64".into()));
    assert_eq!(config["created"], "1970-01-01T00:00:00Z");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/vitals"]));
    assert_eq!(config["config"].get("User"), None, "root: SageMaker mounts /opt/ml for root");
    assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!([digest_of(&unpacked(&image.layers[0]))]));
    assert!(image.own_tag().contains(&hex_of(image.digest())[..12]));
}

#[test]
fn on_a_base_its_settings_stay_but_for_the_entry_point() {
    let base = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["A=1"], "Cmd": ["bash"], "Entrypoint": ["/init"], "User": "7"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:a"]}, "history": [{"created_by": "base"}],
    });
    let config = manifest::config_on(&base, "sha256:b", 0).unwrap();
    let expected = serde_json::json!({"Env": ["A=1"], "Entrypoint": ["/vitals"], "User": "7"});
    assert_eq!(config["config"], expected);
    assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!(["sha256:a", "sha256:b"]));
    assert_eq!(config["history"].as_array().unwrap().len(), 2);
    assert!(manifest::config_on(&serde_json::json!({}), "sha256:b", 0).is_err());
    let bare = serde_json::json!({"rootfs": {"diff_ids": []}, "config": null});
    assert_eq!(manifest::config_on(&bare, "sha256:b", 0).unwrap()["config"]["Entrypoint"][0], "/vitals");
}

#[tokio::test]
async fn a_dynamic_program_makes_no_image_of_its_own() {
    let (_folder, path) = file(&elf(62, Some("/lib/ld.so")));
    let error = Image::build(&Program::read(&path).unwrap(), None, 0).await.unwrap_err();
    assert!(error.downcast_ref::<ProgramError>().is_some(), "{error}");
}

#[tokio::test]
async fn an_image_is_saved_as_a_file_and_as_a_folder() {
    let image = image(&program(), 0).await;
    let folder = tempfile::tempdir().unwrap();
    let (tar, layout) = (folder.path().join("a.tar"), folder.path().join("a"));
    image.save(&tar).unwrap();
    image.save(&layout).unwrap();
    let entries = entries(&std::fs::read(&tar).unwrap());
    assert!(entries.iter().map(|entry| &entry.0).is_sorted_by(|a, b| a < b || a.starts_with("blobs/sha256/")));
    let files: Vec<_> = entries.iter().filter(|(name, ..)| !name.ends_with('/')).collect();
    assert_eq!(files.len(), 6);
    for (name, _, _, content) in files {
        assert_eq!(&std::fs::read(layout.join(name)).unwrap(), content, "{name}");
    }
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], image.digest());
    let again = image.save(&layout).unwrap_err().to_string();
    assert!(again.contains("something in it"), "{again}");
}
