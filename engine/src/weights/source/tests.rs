use super::*;

/// A file with `header` as its JSON and `data` after it.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let length = header.len() as u64;
    [&length.to_le_bytes(), header.as_bytes(), data].concat()
}

fn entry(name: &str, dtype: &str, shape: &str, offsets: [usize; 2]) -> String {
    let [start, end] = offsets;
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

fn open(bytes: &[u8]) -> Result<SafetensorsSource<'_>, WeightError> {
    SafetensorsSource::new(&[("a.safetensors".to_owned(), bytes)])
}

fn good() -> Vec<u8> {
    let header = format!("{{{}}}", entry("w", "F32", "[2]", [0, 8]));
    file(
        &header,
        &[1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat(),
    )
}

#[test]
fn tampered_files_are_refused_whole() {
    open(&good()).expect("the file before anyone touched it");
    let two = |first: [usize; 2], second: [usize; 2]| {
        let (a, b) = (
            entry("a", "F32", "[2]", first),
            entry("b", "F32", "[2]", second),
        );
        file(&format!("{{{a},{b}}}"), &[0; 16])
    };
    open(&two([0, 8], [8, 16])).expect("side by side");
    let one = |dtype, shape, offsets| {
        file(
            &format!("{{{}}}", entry("w", dtype, shape, offsets)),
            &[0; 8],
        )
    };
    let mut long_header = good();
    long_header[..8].copy_from_slice(&1_000_000u64.to_le_bytes());
    let mut endless_header = good();
    endless_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut trailing = good();
    trailing.extend([0; 4]);
    let whole = good();
    let huge = format!("[{},{}]", u64::MAX / 2, 8);
    let cases = [
        ("an empty file", Vec::new()),
        ("a length and no header", whole[..8].to_vec()),
        ("a cut header", whole[..20].to_vec()),
        ("cut data", whole[..whole.len() - 1].to_vec()),
        ("data after the last tensor", trailing),
        ("a header beyond the file", long_header),
        ("a header of 2^64 - 1 bytes", endless_header),
        ("overlapping tensors", two([0, 8], [4, 12])),
        ("twice the same bytes", two([0, 8], [0, 8])),
        ("a hole between tensors", two([0, 8], [12, 20])),
        ("offsets that run backwards", one("F32", "[2]", [8, 0])),
        ("offsets beyond the file", one("F32", "[4]", [0, 16])),
        (
            "a shape that is larger than its data",
            one("F32", "[3]", [0, 8]),
        ),
        ("a shape whose size overflows", one("F32", &huge, [0, 8])),
        ("an unknown type", one("F33", "[2]", [0, 8])),
        ("a header that is not JSON", file("{\"w\":", &[0; 8])),
    ];
    for (case, bytes) in cases {
        match open(&bytes).map(drop) {
            Err(WeightError::Malformed { file, .. }) => assert_eq!(file, "a.safetensors"),
            other => panic!("{case}: {other:?}"),
        }
    }
}

#[test]
fn every_floating_point_type_reads_as_its_value() {
    let values = [1.5f32, -2.0, 0.0, 0.099_975_586];
    let halves = values.map(half::f16::from_f32);
    let brains = values.map(half::bf16::from_f32);
    let cases: [(&str, Vec<u8>, Vec<f32>); 4] = [
        (
            "F32",
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            values.into(),
        ),
        (
            "F64",
            values
                .iter()
                .flat_map(|v| f64::from(*v).to_le_bytes())
                .collect(),
            values.into(),
        ),
        (
            "F16",
            halves.iter().flat_map(|v| v.to_le_bytes()).collect(),
            halves.map(half::f16::to_f32).into(),
        ),
        (
            "BF16",
            brains.iter().flat_map(|v| v.to_le_bytes()).collect(),
            brains.map(half::bf16::to_f32).into(),
        ),
    ];
    for (dtype, data, wanted) in cases {
        let header = format!("{{{}}}", entry("w", dtype, "[2,2]", [0, data.len()]));
        let bytes = file(&header, &data);
        let source = open(&bytes).expect("a whole file");
        assert_eq!(source.read("w", &[2, 2]).expect(dtype), wanted, "{dtype}");
    }
}

#[test]
fn types_shapes_and_names_that_do_not_fit_are_told_apart() {
    let (a, b) = (
        entry("w", "F32", "[2]", [0, 8]),
        entry("n", "I32", "[2]", [8, 16]),
    );
    let bytes = file(&format!("{{{a},{b}}}"), &[0; 16]);
    let source = open(&bytes).expect("a whole file");
    assert!(matches!(
        source.read("n", &[2]),
        Err(WeightError::Dtype { .. })
    ));
    assert!(matches!(
        source.read_i32("w"),
        Err(WeightError::Dtype { .. })
    ));
    assert!(matches!(
        source.read("v", &[2]),
        Err(WeightError::Missing { .. })
    ));
    // As many values, in another shape.
    assert!(matches!(
        source.read("w", &[2, 1]),
        Err(WeightError::Shape { found, expected, .. }) if found == [2] && expected == [2, 1]
    ));
    assert_eq!(source.read_i32("n").expect("integers"), [0, 0]);
}

#[test]
fn tensors_are_found_across_files() {
    let other = file(
        &format!("{{{}}}", entry("v", "F32", "[1]", [0, 4])),
        &3f32.to_le_bytes(),
    );
    let first = good();
    let files = [
        ("a.safetensors".to_owned(), first.as_slice()),
        ("b.safetensors".to_owned(), other.as_slice()),
    ];
    let source = SafetensorsSource::new(&files).expect("two whole files");
    assert_eq!(source.names(), ["v", "w"]);
    assert_eq!(source.read("v", &[1]).expect("in the second file"), [3.0]);
    assert_eq!(source.place(), "a.safetensors, b.safetensors");
    match source.read("v", &[2]) {
        Err(WeightError::Shape { file, .. }) => assert_eq!(file, "b.safetensors"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tensor_in_two_files_is_not_read_from_whichever_comes_first() {
    let one = good();
    let files = [
        ("a.safetensors".to_owned(), one.as_slice()),
        ("b.safetensors".to_owned(), one.as_slice()),
    ];
    match SafetensorsSource::new(&files) {
        Err(WeightError::Malformed { file, problem }) => {
            assert_eq!(file, "b.safetensors");
            assert!(problem.contains("\"w\""), "{problem}");
        }
        _ => panic!("two values for one tensor were accepted"),
    }
}
