//! One array: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, versions 1 to 3.
//! The crates that read it take a header of any length through a recursive parser of Python; this one reads the
//! three members that the format has, and nothing that would need pickle.

use grey_core::{DType, ELEMENT_LENGTH_BYTES, RANK_MAX, Tensor, element_count};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header, in bytes: NumPy's own limit for files that nobody vouches for.
const HEADER_BYTES_MAX: usize = 10_000;
/// Most bytes that an array's elements may take here: what a request may have by default.
const DATA_BYTES_MAX: usize = 256 << 20;
/// Where a header's end is aligned to.
const ALIGN_BYTES: usize = 64;

/// An array: row-major, little-endian elements, as tensors have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Array {
    /// The protocol's type; NumPy's texts and byte strings are `BYTES`.
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<u64>,
    pub(crate) data: Vec<u8>,
}

/// Whether a file's first bytes are those of an array.
pub(crate) fn is_npy(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// Of a type that tensors have as it is.
    Plain(DType),
    /// Byte strings, filled up with zeros to this many bytes.
    Bytes(usize),
    /// Texts of UCS-4, filled up with zeros to this many characters.
    Text(usize),
}

impl Element {
    fn size(self) -> usize {
        match self {
            Element::Plain(dtype) => dtype.size().unwrap_or(0),
            Element::Bytes(n) => n,
            Element::Text(n) => n.saturating_mul(4),
        }
    }
}

struct Header {
    element: Element,
    is_big_endian: bool,
    fortran_order: bool,
    shape: Vec<u64>,
}

/// Reads a whole file. The error says what was expected and found.
pub(crate) fn read(bytes: &[u8]) -> Result<Array, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("expected a NumPy array, which begins with \\x93NUMPY")?;
    let short = || "the header is cut short".to_owned();
    let ([major, minor], rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
    let (length, rest) = match major {
        1 => rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
        2 | 3 => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
        _ => return Err(format!("unknown version {major}.{minor} of the format, expected 1 to 3")),
    }
    .ok_or_else(short)?;
    if length > HEADER_BYTES_MAX {
        return Err(format!("the header is {length} bytes long, expected at most {HEADER_BYTES_MAX}"));
    }
    let (header, data) = rest.split_at_checked(length).ok_or_else(short)?;
    let header = Header::parse(header)?;
    let elements = element_count(&header.shape)
        .filter(|n| n.checked_mul(ELEMENT_LENGTH_BYTES.max(header.element.size())).is_some_and(|b| b <= DATA_BYTES_MAX))
        .ok_or_else(|| format!("shape {:?} is larger than {DATA_BYTES_MAX} bytes", header.shape))?;
    let expected = elements.saturating_mul(header.element.size());
    if data.len() != expected {
        return Err(format!(
            "expected {expected} bytes of elements ({elements} of {} bytes), found {}",
            header.element.size(),
            data.len()
        ));
    }
    let data = if header.fortran_order { row_major(data, &header.shape, header.element.size()) } else { data.to_vec() };
    let (dtype, data) = match header.element {
        Element::Plain(dtype) => (dtype, little(data, dtype, header.is_big_endian)),
        Element::Bytes(size) => (DType::Bytes, strings(&data, size, elements, |item| Ok(item.to_vec()))?),
        Element::Text(chars) => {
            let is_big = header.is_big_endian;
            (DType::Bytes, strings(&data, chars.saturating_mul(4), elements, |item| utf8(item, is_big))?)
        }
    };
    Ok(Array { dtype, shape: header.shape, data })
}

/// Little-endian elements of either order.
fn little(mut data: Vec<u8>, dtype: DType, is_big_endian: bool) -> Vec<u8> {
    let size = dtype.size().unwrap_or(1);
    if is_big_endian && size > 1 {
        data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    data
}

/// Elements in rows that lie in columns (the first index moves first).
fn row_major(data: &[u8], shape: &[u64], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    // What a step along each axis moves, in bytes. The product fits: there are that many bytes.
    let dims: Vec<usize> = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
    let mut strides = Vec::with_capacity(dims.len());
    let mut stride = size;
    for d in &dims {
        strides.push(stride);
        stride = stride.saturating_mul(*d);
    }
    let mut index = vec![0usize; dims.len()];
    let mut at = 0usize;
    while out.len() < data.len() {
        let Some(item) = data.get(at..).and_then(|rest| rest.get(..size)) else { break };
        out.extend_from_slice(item);
        // The last index moves first, and carries to the one before.
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < dims[axis] {
                break;
            }
            at -= strides[axis] * index[axis];
            index[axis] = 0;
        }
    }
    out
}

/// `BYTES` elements of strings that are filled up with zeros.
fn strings(
    data: &[u8],
    size: usize,
    elements: usize,
    item: impl Fn(&[u8]) -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for i in 0..elements {
        let at = i.saturating_mul(size);
        let text = item(data.get(at..at.saturating_add(size)).unwrap_or_default())?;
        let used = text.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let text = text.get(..used).unwrap_or_default();
        let length = u32::try_from(text.len()).map_err(|_| format!("element {i} is longer than 4 GiB"))?;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(text);
    }
    Ok(out)
}

fn utf8(item: &[u8], is_big_endian: bool) -> Result<Vec<u8>, String> {
    let mut text = String::new();
    for unit in item.as_chunks::<4>().0 {
        let code = if is_big_endian { u32::from_be_bytes(*unit) } else { u32::from_le_bytes(*unit) };
        text.push(char::from_u32(code).ok_or_else(|| format!("a text holds {code:#x}, which is no character"))?);
    }
    Ok(text.into_bytes())
}

impl Header {
    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`
    fn parse(bytes: &[u8]) -> Result<Header, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "the header is no text".to_owned())?;
        let mut r = Reader { rest: text.trim_end() };
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        r.expect('{')?;
        while !r.takes('}') {
            let key = r.quoted()?;
            r.expect(':')?;
            let is_new = match key {
                "descr" => descr.replace(r.descr()?).is_none(),
                "fortran_order" => fortran_order.replace(r.boolean()?).is_none(),
                "shape" => shape.replace(r.shape()?).is_none(),
                other => return Err(format!("the header has '{}', which the format has not", other.escape_debug())),
            };
            if !is_new {
                return Err(format!("the header has '{key}' twice"));
            }
            if !r.takes(',') {
                r.expect('}')?;
                break;
            }
        }
        r.space();
        if !r.rest.is_empty() {
            return Err(format!("the header goes on after its end: {}", r.found()));
        }
        let lacks = |name: &str| format!("the header has no '{name}'");
        let (element, is_big_endian) = descr.ok_or_else(|| lacks("descr"))?;
        Ok(Header {
            element,
            is_big_endian,
            fortran_order: fortran_order.ok_or_else(|| lacks("fortran_order"))?,
            shape: shape.ok_or_else(|| lacks("shape"))?,
        })
    }
}

/// Reads a header from its front.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n']);
    }

    fn takes(&mut self, c: char) -> bool {
        self.space();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn found(&self) -> String {
        match self.rest.is_empty() {
            true => "its end".to_owned(),
            false => self.rest.chars().take(20).map(|c| if c.is_control() { '?' } else { c }).collect(),
        }
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.takes(c) { Ok(()) } else { Err(format!("the header: expected '{c}', found {}", self.found())) }
    }

    fn quoted(&mut self) -> Result<&'a str, String> {
        self.space();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let split = quote.and_then(|q| self.rest.get(1..)?.split_once(q));
        let (text, rest) = split.ok_or_else(|| format!("the header: expected a text, found {}", self.found()))?;
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.space();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(format!("the header: expected True or False, found {}", self.found()))
    }

    fn shape(&mut self) -> Result<Vec<u64>, String> {
        let mut shape = Vec::new();
        self.expect('(')?;
        while !self.takes(')') {
            let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, rest) = self.rest.split_at(digits);
            let number = number.parse().map_err(|_| format!("the shape: expected a size, found {}", self.found()))?;
            self.rest = rest;
            if shape.len() == RANK_MAX {
                return Err(format!("the shape has more than {RANK_MAX} dimensions"));
            }
            shape.push(number);
            if !self.takes(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(shape)
    }

    /// The element's type, and whether it is big-endian.
    fn descr(&mut self) -> Result<(Element, bool), String> {
        self.space();
        if self.rest.starts_with('[') {
            return Err("it has a structured type, expected elements that are numbers or texts".to_owned());
        }
        let text = self.quoted()?;
        let unknown = || format!("unknown element type '{}'", text.escape_debug());
        let order = text.chars().next().filter(char::is_ascii).ok_or_else(unknown)?;
        let (order, kind) =
            if "<>|=".contains(order) { (order, text.get(1..).unwrap_or_default()) } else { ('=', text) };
        let is_big_endian = order == '>' || (order == '=' && cfg!(target_endian = "big"));
        let (letter, size) = kind.split_at_checked(1).ok_or_else(unknown)?;
        let size = size.parse::<usize>().ok();
        let element = match (letter, size) {
            ("b", Some(1)) => Element::Plain(DType::Bool),
            ("u", Some(1)) => Element::Plain(DType::Uint8),
            ("u", Some(2)) => Element::Plain(DType::Uint16),
            ("u", Some(4)) => Element::Plain(DType::Uint32),
            ("u", Some(8)) => Element::Plain(DType::Uint64),
            ("i", Some(1)) => Element::Plain(DType::Int8),
            ("i", Some(2)) => Element::Plain(DType::Int16),
            ("i", Some(4)) => Element::Plain(DType::Int32),
            ("i", Some(8)) => Element::Plain(DType::Int64),
            ("f", Some(2)) => Element::Plain(DType::Fp16),
            ("f", Some(4)) => Element::Plain(DType::Fp32),
            ("f", Some(8)) => Element::Plain(DType::Fp64),
            ("S" | "a", Some(n)) => Element::Bytes(n),
            ("U", Some(n)) => Element::Text(n),
            ("O", _) => {
                return Err("it holds Python objects, which only pickle reads; expected numbers or texts".into());
            }
            ("c", _) => return Err("it holds complex numbers, which no tensor has".into()),
            ("M" | "m", _) => return Err("it holds dates or times, which no tensor has; expected numbers".into()),
            ("V", _) => return Err("it holds raw bytes of no known type (NumPy has no bfloat16)".into()),
            ("f", _) => return Err(format!("it holds floats of type '{text}', expected 16, 32 or 64 bits")),
            _ => return Err(unknown()),
        };
        Ok((element, is_big_endian))
    }
}

/// A tensor as a file. bfloat16, which NumPy has not, becomes float32; texts are filled up with zeros.
pub(crate) fn write(tensor: &Tensor) -> Result<Vec<u8>, String> {
    let data = tensor.data().to_contiguous();
    let (descr, body) = match tensor.dtype() {
        DType::Bool => ("|b1".to_owned(), data.to_vec()),
        DType::Uint8 => ("|u1".to_owned(), data.to_vec()),
        DType::Int8 => ("|i1".to_owned(), data.to_vec()),
        DType::Uint16 => ("<u2".to_owned(), data.to_vec()),
        DType::Uint32 => ("<u4".to_owned(), data.to_vec()),
        DType::Uint64 => ("<u8".to_owned(), data.to_vec()),
        DType::Int16 => ("<i2".to_owned(), data.to_vec()),
        DType::Int32 => ("<i4".to_owned(), data.to_vec()),
        DType::Int64 => ("<i8".to_owned(), data.to_vec()),
        DType::Fp16 => ("<f2".to_owned(), data.to_vec()),
        DType::Fp32 => ("<f4".to_owned(), data.to_vec()),
        DType::Fp64 => ("<f8".to_owned(), data.to_vec()),
        DType::Bf16 => {
            let wide =
                data.as_chunks::<2>().0.iter().flat_map(|b| half::bf16::from_le_bytes(*b).to_f32().to_le_bytes());
            ("<f4".to_owned(), wide.collect())
        }
        DType::Bytes => padded(&data)?,
    };
    let one = if tensor.shape().len() == 1 { "," } else { "" };
    let shape: Vec<String> = tensor.shape().iter().map(u64::to_string).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{one}), }}", shape.join(", "));
    // Magic, version and length are ten bytes; the header ends in a newline at a multiple of 64.
    let before = MAGIC.len() + 4;
    let pad = (before + header.len() + 1).next_multiple_of(ALIGN_BYTES) - (before + header.len() + 1);
    header.extend(std::iter::repeat_n(' ', pad));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| "the shape is too long".to_owned())?;
    Ok([MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes(), &body].concat())
}

/// `BYTES` elements as strings of one length.
fn padded(data: &[u8]) -> Result<(String, Vec<u8>), String> {
    let mut items = Vec::new();
    let mut rest = data;
    while let Some((head, tail)) = rest.split_first_chunk::<ELEMENT_LENGTH_BYTES>() {
        let (item, after) =
            tail.split_at_checked(u32::from_le_bytes(*head) as usize).ok_or("an element is cut short".to_owned())?;
        if item.last() == Some(&0) {
            return Err(format!("element {} ends with a zero byte, which NumPy's strings cannot hold", items.len()));
        }
        items.push(item);
        rest = after;
    }
    let longest = items.iter().map(|i| i.len()).max().unwrap_or(0).max(1);
    if items.len().saturating_mul(longest) > DATA_BYTES_MAX {
        return Err(format!(
            "its {} texts of up to {longest} bytes do not fit into {DATA_BYTES_MAX} bytes",
            items.len()
        ));
    }
    let mut out = Vec::with_capacity(items.len() * longest);
    for item in items {
        out.extend_from_slice(item);
        out.extend(std::iter::repeat_n(0, longest - item.len()));
    }
    Ok((format!("|S{longest}"), out))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(header.len()).unwrap();
        [MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn dict(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        file(&format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}   \n"), data)
    }

    #[test]
    fn orders_become_one() {
        let little = read(&dict("<i2", "False", "(2, 3)", &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0])).unwrap();
        assert_eq!((little.dtype, &little.shape[..]), (DType::Int16, &[2, 3][..]));
        assert_eq!(read(&dict(">i2", "False", "(2, 3)", &[0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6])).unwrap(), little);
        assert_eq!(read(&dict("<i2", "True", "(2, 3)", &[1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6, 0])).unwrap(), little);
        assert_eq!(read(&dict(">i2", "True", "(2, 3)", &[0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6])).unwrap(), little);
        let three = read(&dict("|u1", "True", "(2, 1, 2)", &[0, 1, 2, 3])).unwrap();
        assert_eq!(three.data, [0, 2, 1, 3]);
        assert_eq!(read(&dict("<f8", "False", "()", &1.5f64.to_le_bytes())).unwrap().shape, [0u64; 0]);
        assert_eq!(read(&dict("<f4", "True", "(0, 7)", &[])).unwrap().data, [0u8; 0]);
        // Another writer's spaces, quotes and order.
        let other = file("{ \"shape\":(2,),\"fortran_order\" : False,'descr':\"|b1\"}", &[0, 1]);
        assert_eq!(read(&other).unwrap().shape, [2]);
    }

    #[test]
    fn texts_are_bytes() {
        let s = read(&dict("|S3", "False", "(2,)", b"ab\0cde")).unwrap();
        assert_eq!((s.dtype, &s.data[..]), (DType::Bytes, &b"\x02\0\0\0ab\x03\0\0\0cde"[..]));
        let u = read(&dict("<U2", "False", "(1,)", &[0xe9, 0, 0, 0, 0, 0, 0, 0])).unwrap();
        assert_eq!(&u.data[..], b"\x02\0\0\0\xc3\xa9");
        let u = read(&dict(">U1", "False", "(1,)", &[0, 0, 0, b'x'])).unwrap();
        assert_eq!(&u.data[..], b"\x01\0\0\0x");
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (bytes, says) in [
            (b"PK".to_vec(), "begins with"),
            (b"\x93NUMPY\x01\0\xff".to_vec(), "header is cut short"),
            (b"\x93NUMPY\x04\0\x01\0\0\0x".to_vec(), "unknown version 4.0"),
            ([MAGIC, &[2, 0], &u32::MAX.to_le_bytes()].concat(), "expected at most 10000"),
            (dict("|O", "False", "(1,)", &[0; 8]), "Python objects"),
            (dict("<c8", "False", "(1,)", &[0; 8]), "complex numbers"),
            (dict("<M8[ns]", "False", "(1,)", &[0; 8]), "dates or times"),
            (dict("|V2", "False", "(1,)", &[0; 2]), "no bfloat16"),
            (dict("<f16", "False", "(1,)", &[0; 16]), "'<f16', expected 16, 32 or 64 bits"),
            (dict("<x9", "False", "(1,)", &[0; 9]), "unknown element type '<x9'"),
            (dict("", "False", "(1,)", &[]), "unknown element type ''"),
            (dict("<f4", "False", "(2,)", &[0; 7]), "expected 8 bytes of elements (2 of 4 bytes), found 7"),
            (dict("<f4", "False", "(2,)", &[0; 9]), "found 9"),
            (dict("<f4", "no", "(2,)", &[0; 8]), "expected True or False, found no, 'shape'"),
            (dict("<f4", "False", "(-2,)", &[0; 8]), "expected a size, found -2,)"),
            (dict("<f4", "False", "(18446744073709551616,)", &[]), "expected a size"),
            (dict("<f4", "False", "(4294967296, 4294967296)", &[]), "is larger than"),
            (dict("|S0", "False", "(1000000000,)", &[]), "is larger than"),
            (dict("<U1", "False", "(1,)", &[0, 0, 0xff, 0xff]), "which is no character"),
            (dict("<f4", "False", &format!("({})", "1,".repeat(100)), &[0; 4]), "more than"),
            (file("{'descr': [('a', '<f4')], 'shape': ()}", &[]), "structured type"),
            (file("{'shape': (), 'shape': ()}", &[]), "'shape' twice"),
            (file("{'shape': (), 'fortran_order': True}", &[]), "no 'descr'"),
            (file("{'x': 1}", &[]), "has 'x'"),
            (file("{} x", &[]), "goes on after its end: x"),
            (file("(((((", &[]), "expected '{', found ((((("),
        ] {
            let e = read(&bytes).unwrap_err();
            assert!(e.contains(says), "{e} should say {says}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(kind in 0u8..3, header in "\\PC{0,60}", data in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = match kind {
                0 => data,
                1 => [MAGIC, &data].concat(),
                _ => file(&header, &data),
            };
            // An array that is read is one that tensors take, and is written as it was read.
            if let Ok(array) = read(&bytes) && let Ok(tensor) = Tensor::new("x", array.dtype, array.shape.clone(), array.data.clone()) {
                prop_assert_eq!(read(&write(&tensor).unwrap()).unwrap(), array);
            }
        }

        #[test]
        fn arrays_come_back(dtype in 0usize..13, shape in prop::collection::vec(0u64..5, 0..4), seed in any::<u8>()) {
            let dtype = DType::ALL[dtype];
            let bytes = grey_core::payload_len(dtype, &shape).unwrap();
            let data: Vec<u8> = (0..bytes).map(|i| if dtype == DType::Bool { (i % 2) as u8 } else { (i as u8).wrapping_mul(31) ^ seed }).collect();
            let tensor = Tensor::new("x", dtype, shape.clone(), data.clone()).unwrap();
            let array = read(&write(&tensor).unwrap()).unwrap();
            prop_assert_eq!(&array.shape, &shape);
            if dtype != DType::Bf16 {
                prop_assert_eq!(array, Array { dtype, shape, data });
            }
        }

        #[test]
        fn headers_with_small_faults(at in 0usize..60, byte in any::<u8>(), order in prop::sample::select(vec!["True", "False"]), shape in "\\([0-9, ]{0,9}\\)", descr in "[<>|=]?[a-zA-Z][0-9]{0,2}") {
            let mut bytes = dict(&descr, order, &shape, &[0; 24]);
            if let Some(b) = bytes.get_mut(at) { *b = byte; }
            let _read_or_refused = read(&bytes);
        }
    }
}
