//! Two sets of descriptors, without a protoc binary.
//!
//! * `proto/`, our own text, is compiled; its set feeds gRPC reflection.
//! * The whole Envoy v3 API comes as a set in the package `envoy-types`. Cargo
//!   fetches and checks that package; it is not compiled. What is not needed of
//!   the set is left out, the rest is compressed beside the generated code.

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the set itself, for builds without Cargo's registry.
const ENVOY_SET: &str = "OUTPOST_ENVOY_DESCRIPTORS";
/// Of `proto/`, what the Envoy API travels with and does not import.
const BESIDE_ENVOY: &[&str] = &["udpa/type/v1/typed_struct.proto", "xds/type/v3/typed_struct.proto"];
/// `udpa.annotations.sensitive`, the one annotation that is read.
const SENSITIVE: u32 = 76_569_463;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed={}", root.display());
    println!("cargo:rerun-if-changed=Cargo.lock");
    println!("cargo:rerun-if-env-changed={ENVOY_SET}");
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();

    let mut descriptors = protox::compile(&files, [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut set = pruned(Part::Set, &std::fs::read(envoy_set()?)?)?;
    for file in descriptors.file.iter().filter(|file| BESIDE_ENVOY.contains(&file.name())) {
        put(1, &file.encode_to_vec(), &mut set);
    }
    let mut compressed = GzEncoder::new(Vec::new(), Compression::best());
    compressed.write_all(&set)?;
    std::fs::write(out.join("envoy_descriptors.bin.gz"), compressed.finish()?)?;

    descriptors.file.retain(|file| !BESIDE_ENVOY.contains(&file.name()));
    let mut config = prost_build::Config::new();
    config.enable_type_names().type_name_domain(["."], "type.googleapis.com");
    tonic_prost_build::configure()
        .bytes(".")
        .compile_well_known_types(true)
        .include_file("outpost_proto.rs")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|ext| ext == "proto") {
            into.push(path);
        }
    }
    Ok(())
}

/// Where the set of the Envoy API is. The package that holds it is an optional
/// dependency that no build enables, so that Cargo pins it and knows its place
/// and nobody waits for its hundred thousand lines of generated code.
fn envoy_set() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(path) = std::env::var_os(ENVOY_SET) {
        return Ok(path.into());
    }
    let mut said = String::new();
    for network in [Some("--offline"), None] {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["metadata", "--format-version=1", "--locked", "--features=envoy-descriptors"])
            .args(["--filter-platform", &std::env::var("TARGET")?])
            .args(network)
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        let paths = text.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
        if let Some(manifest) = paths.map(Path::new).find(|path| is_of_envoy_types(path)) {
            return Ok(manifest.with_file_name("src/generated/types.bin"));
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    Err(format!("cargo metadata does not find the package envoy-types; name its types.bin with {ENVOY_SET}: {said}")
        .into())
}

/// In the registry the folder has the version in its name, vendored it has not.
fn is_of_envoy_types(manifest: &Path) -> bool {
    let folder = manifest.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    folder.is_some_and(|folder| folder.starts_with("envoy-types"))
}

/// The parts of a `FileDescriptorSet` of which something is left out.
#[derive(Clone, Copy)]
enum Part {
    Set,
    File,
    Message,
    Field,
    Options,
}

enum What {
    Keep,
    Drop,
    Within(Part),
}

/// What is done with a part's field of that number: comments and places in the
/// source go, services, names that are reserved, and all annotations but one.
fn judge(part: Part, number: u32) -> What {
    match (part, number) {
        (Part::Set, 1) => What::Within(Part::File),
        (Part::File, 4) | (Part::Message, 3) => What::Within(Part::Message),
        (Part::File, 6 | 8 | 9) | (Part::Message, 9 | 10) => What::Drop,
        (Part::Message, 2) => What::Within(Part::Field),
        (Part::Message, 7) | (Part::Field, 8) => What::Within(Part::Options),
        (Part::Options, 1000..) if number != SENSITIVE => What::Drop,
        _ => What::Keep,
    }
}

/// By hand, because a decoded set would have lost the annotation.
fn pruned(part: Part, mut bytes: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut kept = Vec::new();
    while !bytes.is_empty() {
        let start = bytes;
        let (number, wire_type) = decode_key(&mut bytes)?;
        match judge(part, number) {
            What::Within(inner) => {
                let length = usize::try_from(decode_varint(&mut bytes)?)?;
                let (value, rest) = bytes.split_at_checked(length).ok_or("the set of descriptors is cut off")?;
                bytes = rest;
                put(number, &pruned(inner, value)?, &mut kept);
            }
            what => {
                skip_field(wire_type, number, &mut bytes, DecodeContext::default())?;
                if matches!(what, What::Keep) {
                    kept.extend_from_slice(&start[..start.len() - bytes.len()]);
                }
            }
        }
    }
    Ok(kept)
}

fn put(number: u32, value: &[u8], into: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, into);
    encode_varint(value.len() as u64, into);
    into.extend_from_slice(value);
}
