//! Pictures as tensors: the layout and the size are what the model's input says, the numbers what the user says.

use std::{fmt, str::FromStr};

use clap::{Args, ValueEnum};
use grey_core::{DType, Tensor};
use half::{bf16, f16};
use image::{ImageFormat, ImageReader, Limits, imageops::FilterType};

use super::input::InputSpec;
use crate::failure::Failure;

/// Largest width and height of a picture, in pixels.
const SIDE_PIXELS_MAX: u32 = 32_768;
/// Most bytes that a picture may take unpacked.
const UNPACKED_BYTES_MAX: u64 = 256 << 20;

/// How pictures become numbers.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Pictures")]
pub(crate) struct ImageArgs {
    /// Scale pictures to the size that the model takes, or to this one
    #[arg(long, value_name = "WIDTHxHEIGHT", num_args = 0..=1, require_equals = true, default_missing_value = "model")]
    pub(crate) resize: Option<Resize>,
    /// What pixels (0 to 255) are multiplied with, e.g. 1/255; inputs of floats need it
    #[arg(long, value_name = "NUMBER")]
    pub(crate) scale: Option<Scale>,
    /// Subtracted after the scale, one number or one for each channel
    #[arg(long, value_name = "NUMBERS", requires = "scale")]
    pub(crate) mean: Option<PerChannel>,
    /// Divided by after the mean, one number or one for each channel
    #[arg(long, value_name = "NUMBERS", requires = "scale")]
    pub(crate) std: Option<PerChannel>,
    /// The order of axes, where the model's shape leaves it open
    #[arg(long, value_enum)]
    pub(crate) layout: Option<Layout>,
}

impl ImageArgs {
    /// The first flag that is given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let flags = [
            (self.resize.is_some(), "--resize"),
            (self.scale.is_some(), "--scale"),
            (self.mean.is_some(), "--mean"),
            (self.std.is_some(), "--std"),
            (self.layout.is_some(), "--layout"),
        ];
        flags.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag))
    }
}

/// The order of a picture's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// Channels, height, width
    Nchw,
    /// Height, width, channels
    Nhwc,
}

/// To which size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resize {
    Model,
    To(u32, u32),
}

impl FromStr for Resize {
    type Err = String;

    fn from_str(text: &str) -> Result<Resize, String> {
        if text == "model" {
            return Ok(Resize::Model);
        }
        let side = |t: &str| t.parse::<u32>().ok().filter(|n| (1..=SIDE_PIXELS_MAX).contains(n));
        let sides = text.split_once('x').and_then(|(w, h)| Some(Resize::To(side(w)?, side(h)?)));
        sides.ok_or_else(|| format!("expected WIDTHxHEIGHT, e.g. 224x224, sides of 1 to {SIDE_PIXELS_MAX} pixels"))
    }
}

/// A factor, kept as it was written: 1/255 is no number of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    numerator: f64,
    denominator: f64,
}

impl FromStr for Scale {
    type Err = String;

    fn from_str(text: &str) -> Result<Scale, String> {
        let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
        let number = |t: &str| t.parse::<f64>().ok().filter(|n| n.is_finite() && *n != 0.0);
        let both = number(numerator).zip(number(denominator));
        let (numerator, denominator) = both.ok_or("expected a number other than 0, or a fraction, e.g. 1/255")?;
        Ok(Scale { numerator, denominator })
    }
}

/// One number, or one for each channel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PerChannel(Vec<f64>);

impl FromStr for PerChannel {
    type Err = String;

    fn from_str(text: &str) -> Result<PerChannel, String> {
        let all: Option<Vec<f64>> = text.split(',').map(|t| t.parse().ok().filter(|n: &f64| n.is_finite())).collect();
        all.map(PerChannel)
            .ok_or_else(|| "expected a number, or one for each channel, e.g. 0.485,0.456,0.406".to_owned())
    }
}

impl PerChannel {
    fn of(given: Option<&PerChannel>, flag: &str, channels: usize, none: f64) -> Result<Vec<f64>, Failure> {
        match given.map(|p| p.0.as_slice()) {
            None => Ok(vec![none; channels]),
            Some([one]) => Ok(vec![*one; channels]),
            Some(each) if each.len() == channels => Ok(each.to_vec()),
            Some(each) => Err(Failure::usage(format!(
                "{flag} has {} numbers, expected 1 or {channels}, one for each channel",
                each.len()
            ))),
        }
    }
}

/// What a model's input says of its pictures.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    layout: Layout,
    channels: u32,
    /// None where the model takes any.
    height: Option<u32>,
    width: Option<u32>,
    /// Whether the first axis counts pictures.
    is_batched: bool,
}

/// Whether an axis may count channels.
fn is_channels(d: i64) -> bool {
    matches!(d, 1 | 3 | 4)
}

impl Shape {
    fn of(input: &InputSpec, asked: Option<Layout>) -> Result<Shape, Failure> {
        let no_image = |why: &dyn fmt::Display| {
            Failure::usage(format!(
                "input '{}' takes no pictures: its shape {:?} {why}",
                input.name.escape_debug(),
                input.shape
            ))
        };
        let (is_batched, axes) = match input.shape.as_slice() {
            [_, a, b, c] => (true, [*a, *b, *c]),
            [a, b, c] => (false, [*a, *b, *c]),
            _ => {
                return Err(no_image(&"has not the axes of one, [N, C, H, W] or [N, H, W, C]")
                    .hint("give an array: --input x.npy"));
            }
        };
        let layout = match (asked, is_channels(axes[0]), is_channels(axes[2])) {
            (Some(layout), ..) => layout,
            (None, true, false) => Layout::Nchw,
            (None, false, true) => Layout::Nhwc,
            (None, true, true) => {
                return Err(no_image(&"could be of either order").hint("say which: --layout nchw or --layout nhwc"));
            }
            (None, false, false) => {
                return Err(no_image(&"has no axis of 1, 3 or 4 channels")
                    .hint("if one of its axes counts channels, say which: --layout nchw or --layout nhwc"));
            }
        };
        let [channels, height, width] = match layout {
            Layout::Nchw => axes,
            Layout::Nhwc => [axes[2], axes[0], axes[1]],
        };
        let channels = match channels {
            -1 => 3,
            c if is_channels(c) => c.unsigned_abs() as u32,
            c => return Err(no_image(&format_args!("has {c} channels in that order, expected 1, 3 or 4"))),
        };
        let side = |d: i64| u32::try_from(d).ok();
        Ok(Shape { layout, channels, height: side(height), width: side(width), is_batched })
    }
}

/// Which kind of picture a file is, by its first bytes.
pub(crate) fn format(bytes: &[u8]) -> Option<ImageFormat> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some(ImageFormat::Png),
        [0xff, 0xd8, 0xff, ..] => Some(ImageFormat::Jpeg),
        _ => None,
    }
}

/// A picture's file: what it is called in messages, and its bytes.
pub(crate) type Picture = (String, Vec<u8>);

/// Pictures as one tensor, stacked along the first axis.
pub(crate) fn tensor(input: &InputSpec, pictures: &[Picture], args: &ImageArgs) -> Result<Tensor, Failure> {
    let shape = Shape::of(input, args.layout)?;
    if !shape.is_batched && pictures.len() > 1 {
        return Err(Failure::usage(format!(
            "input '{}' takes one picture, found {}",
            input.name.escape_debug(),
            pictures.len()
        )));
    }
    let convert = Convert::new(input, &shape, args)?;
    let mut data = Vec::new();
    let mut size = None;
    for (path, bytes) in pictures {
        let (pixels, width, height) = pixels(path, bytes, &shape, args.resize)?;
        if let Some((w, h)) = size.replace((width, height))
            && (w, h) != (width, height)
        {
            return Err(Failure::refused(format!("{path} has {width}x{height} pixels, the picture before it {w}x{h}"))
                .hint(format!("bring them to one size: --resize={w}x{h}")));
        }
        convert.onto(&mut data, &pixels);
    }
    let (width, height) = size.unwrap_or_default();
    let [c, h, w] = [shape.channels, height, width].map(u64::from);
    let mut dims = match shape.layout {
        Layout::Nchw => vec![c, h, w],
        Layout::Nhwc => vec![h, w, c],
    };
    if shape.is_batched {
        dims.insert(0, pictures.len() as u64);
    }
    Tensor::new(input.name.as_str(), input.datatype, dims, data).map_err(|e| Failure::unexpected(e.message()))
}

/// A picture's pixels row by row, with its channels together, and its width and height.
fn pixels(path: &str, bytes: &[u8], shape: &Shape, resize: Option<Resize>) -> Result<(Vec<u8>, u32, u32), Failure> {
    let broken = |e: &dyn fmt::Display| Failure::refused(format!("{path} is no picture that can be read: {e}"));
    let Some(format) = format(bytes) else { return Err(broken(&"expected PNG or JPEG")) };
    let mut reader = ImageReader::with_format(std::io::Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_PIXELS_MAX);
    limits.max_image_height = Some(SIDE_PIXELS_MAX);
    limits.max_alloc = Some(UNPACKED_BYTES_MAX);
    reader.limits(limits);
    let mut picture = reader.decode().map_err(|e| broken(&e))?;
    let wanted = match resize {
        None => None,
        Some(Resize::To(w, h)) => Some((w, h)),
        Some(Resize::Model) => Some(shape.width.zip(shape.height).ok_or_else(|| {
            Failure::usage("--resize: the model takes pictures of any size").hint("say which: --resize=224x224")
        })?),
    };
    if let Some((w, h)) = wanted
        && (picture.width(), picture.height()) != (w, h)
    {
        picture = picture.resize_exact(w, h, FilterType::Triangle);
    }
    let (width, height) = (picture.width(), picture.height());
    let fits = |takes: Option<u32>, has: u32| takes.is_none_or(|t| t == has);
    if !fits(shape.width, width) || !fits(shape.height, height) {
        let takes = |side: Option<u32>| side.map_or_else(|| "any".to_owned(), |s| s.to_string());
        return Err(Failure::refused(format!(
            "{path} has {width}x{height} pixels, the model takes {}x{}",
            takes(shape.width),
            takes(shape.height)
        ))
        .hint("add --resize to scale it (without regard to its proportions)"));
    }
    let pixels = match shape.channels {
        1 if picture.color().has_color() => grey(&picture.into_rgb8()),
        1 => picture.into_luma8().into_raw(),
        4 => picture.into_rgba8().into_raw(),
        _ => picture.into_rgb8().into_raw(),
    };
    Ok((pixels, width, height))
}

/// Brightness by ITU-R BT.601, with which Pillow and OpenCV make what models are trained on.
fn grey(picture: &image::RgbImage) -> Vec<u8> {
    let weighted = |[r, g, b]: [u8; 3]| 19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b);
    picture.pixels().map(|p| ((weighted(p.0) + 0x8000) >> 16) as u8).collect()
}

/// From pixels to elements.
struct Convert {
    layout: Layout,
    channels: usize,
    dtype: DType,
    /// For each channel, the element of each of the 256 values.
    elements: Vec<Vec<[u8; 8]>>,
}

impl Convert {
    fn new(input: &InputSpec, shape: &Shape, args: &ImageArgs) -> Result<Convert, Failure> {
        let channels = shape.channels as usize;
        let named = input.name.escape_debug();
        let dtype = input.datatype;
        let scale = match (dtype, args.scale) {
            (DType::Uint8, None) => Scale { numerator: 1.0, denominator: 1.0 },
            (DType::Uint8, Some(_)) => {
                return Err(Failure::usage(format!(
                    "--scale: input '{named}' takes UINT8, which pixels are as they are"
                ))
                .hint("leave --scale out"));
            }
            (d, Some(scale)) if d.is_float() => scale,
            (d, None) if d.is_float() => {
                return Err(Failure::usage(format!(
                    "input '{named}' takes {d}: say how pixels (0 to 255) become floats"
                ))
                .hint("--scale 1/255 for 0 to 1, --scale 1 for 0 to 255; --mean and --std follow it"));
            }
            (d, _) => {
                return Err(Failure::usage(format!("input '{named}' takes {d}; pictures go into UINT8 and floats"))
                    .hint("make an array of it, and give that: --input x.npy"));
            }
        };
        let mean = PerChannel::of(args.mean.as_ref(), "--mean", channels, 0.0)?;
        let std = PerChannel::of(args.std.as_ref(), "--std", channels, 1.0)?;
        if std.contains(&0.0) {
            return Err(Failure::usage("--std: expected numbers other than 0"));
        }
        let one = |mean: f64, std: f64| -> Vec<[u8; 8]> {
            let of = |pixel: u8| (f64::from(pixel) * scale.numerator / scale.denominator - mean) / std;
            (0..=255u8).map(|pixel| element(dtype, pixel, of(pixel))).collect()
        };
        let elements = mean.iter().zip(&std).map(|(mean, std)| one(*mean, *std)).collect();
        Ok(Convert { layout: shape.layout, channels, dtype, elements })
    }

    fn onto(&self, out: &mut Vec<u8>, pixels: &[u8]) {
        let size = self.dtype.size().unwrap_or(0);
        let mut push = |channel: usize, pixel: u8| {
            let element = self.elements.get(channel).and_then(|e| e.get(usize::from(pixel)));
            out.extend_from_slice(element.and_then(|e| e.get(..size)).unwrap_or_default());
        };
        match self.layout {
            Layout::Nhwc => pixels.iter().enumerate().for_each(|(i, p)| push(i % self.channels, *p)),
            Layout::Nchw => {
                for channel in 0..self.channels {
                    pixels.iter().skip(channel).step_by(self.channels).for_each(|p| push(channel, *p));
                }
            }
        }
    }
}

/// An element's little-endian bytes, at the front.
fn element(dtype: DType, pixel: u8, value: f64) -> [u8; 8] {
    let mut out = [0; 8];
    let mut put = |bytes: &[u8]| {
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = *from;
        }
    };
    match dtype {
        DType::Fp64 => put(&value.to_le_bytes()),
        DType::Fp32 => put(&(value as f32).to_le_bytes()),
        DType::Fp16 => put(&f16::from_f64(value).to_le_bytes()),
        DType::Bf16 => put(&bf16::from_f64(value).to_le_bytes()),
        _ => put(&[pixel]),
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input(datatype: DType, shape: &[i64]) -> InputSpec {
        InputSpec { name: "image".to_owned(), datatype, shape: shape.to_vec() }
    }

    /// Two pixels beside each other: (10, 20, 30) and (40, 50, 60).
    fn png() -> Vec<u8> {
        let mut out = std::io::Cursor::new(Vec::new());
        let picture = image::RgbImage::from_raw(2, 1, vec![10, 20, 30, 40, 50, 60]).unwrap();
        picture.write_to(&mut out, ImageFormat::Png).unwrap();
        out.into_inner()
    }

    fn made(input: &InputSpec, args: &ImageArgs) -> Result<Tensor, Failure> {
        tensor(input, &[("x.png".to_owned(), png())], args)
    }

    #[test]
    fn the_signature_says_the_layout() {
        let none = ImageArgs::default();
        let t = made(&input(DType::Uint8, &[-1, 3, 1, 2]), &none).unwrap();
        assert_eq!((t.shape(), &t.data().to_contiguous()[..]), (&[1, 3, 1, 2][..], &[10, 40, 20, 50, 30, 60][..]));
        let t = made(&input(DType::Uint8, &[-1, -1, -1, 3]), &none).unwrap();
        assert_eq!((t.shape(), &t.data().to_contiguous()[..]), (&[1, 1, 2, 3][..], &[10, 20, 30, 40, 50, 60][..]));
        let t = made(&input(DType::Uint8, &[3, -1, -1]), &none).unwrap();
        assert_eq!(t.shape(), [3, 1, 2]);
        let gray = made(&input(DType::Uint8, &[1, 1, -1, -1]), &none).unwrap();
        assert_eq!((gray.shape(), &gray.data().to_contiguous()[..]), (&[1, 1, 1, 2][..], &[18, 48][..]));
        let both = [("a".to_owned(), png()), ("b".to_owned(), png())];
        let t = tensor(&input(DType::Uint8, &[-1, 3, 1, 2]), &both, &none).unwrap();
        assert_eq!(t.shape(), [2, 3, 1, 2]);
        let args = ImageArgs { layout: Some(Layout::Nhwc), ..none };
        assert_eq!(made(&input(DType::Uint8, &[-1, -1, -1, -1]), &args).unwrap().shape(), [1, 1, 2, 3]);
    }

    #[test]
    fn the_user_says_the_numbers() {
        let args = ImageArgs { scale: Some("1/255".parse().unwrap()), ..ImageArgs::default() };
        let t = made(&input(DType::Fp32, &[1, 1, 2, 3]), &ImageArgs { layout: Some(Layout::Nhwc), ..args.clone() });
        let data = t.unwrap().data().to_contiguous();
        assert_eq!(data[..4], (10.0f32 / 255.0).to_le_bytes());
        let norm = ImageArgs { mean: Some("0,0.5,0".parse().unwrap()), std: Some("2".parse().unwrap()), ..args };
        let t = made(&input(DType::Fp64, &[1, 3, 1, 2]), &norm).unwrap().data().to_contiguous();
        assert_eq!(t[16..24], ((20.0 / 255.0 - 0.5) / 2.0f64).to_le_bytes());
    }

    #[test]
    fn sizes_are_the_models_or_what_was_asked() {
        let args = ImageArgs { resize: Some(Resize::Model), ..ImageArgs::default() };
        let fixed = input(DType::Uint8, &[-1, 3, 4, 6]);
        assert_eq!(made(&fixed, &args).unwrap().shape(), [1, 3, 4, 6]);
        let f = made(&fixed, &ImageArgs::default()).unwrap_err();
        assert_eq!(f.message, "x.png has 2x1 pixels, the model takes 6x4");
        let open = input(DType::Uint8, &[-1, 3, -1, -1]);
        assert!(made(&open, &args).unwrap_err().message.contains("any size"));
        let args = ImageArgs { resize: Some("6x4".parse().unwrap()), ..ImageArgs::default() };
        assert_eq!(made(&open, &args).unwrap().shape(), [1, 3, 4, 6]);
        assert!("0x4".parse::<Resize>().is_err() && "4".parse::<Resize>().is_err());
    }

    #[test]
    fn mistakes_say_what_to_do() {
        let none = ImageArgs::default();
        let said =
            |input: InputSpec, args: &ImageArgs| made(&input, args).unwrap_err().told(crate::style::Paint::PLAIN);
        let scaled = ImageArgs { scale: Some("1".parse().unwrap()), ..ImageArgs::default() };
        for (said, says) in [
            (said(input(DType::Fp32, &[-1, 64]), &none), "[-1, 64] has not the axes"),
            (said(input(DType::Fp32, &[-1, 3, 8, 3]), &none), "--layout nchw or --layout nhwc"),
            (said(input(DType::Fp32, &[-1, -1, -1, -1]), &none), "no axis of 1, 3 or 4 channels"),
            (said(input(DType::Fp32, &[-1, 3, 1, 2]), &none), "--scale 1/255"),
            (said(input(DType::Uint8, &[-1, 3, 1, 2]), &scaled), "leave --scale out"),
            (said(input(DType::Int64, &[-1, 3, 1, 2]), &none), "takes INT64"),
        ] {
            assert!(said.contains(says), "{said} should say {says}");
        }
        let cut = png()[..40].to_vec();
        let f = tensor(&input(DType::Uint8, &[-1, 3, 1, 2]), &[("x.png".to_owned(), cut)], &none).unwrap_err();
        assert!(f.message.starts_with("x.png is no picture that can be read: "), "{f:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_change_is_read_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = png();
            let i = at.index(bytes.len());
            bytes[i] = byte;
            let _read_or_refused = tensor(&input(DType::Uint8, &[-1, 3, -1, -1]), &[("x".to_owned(), bytes)], &ImageArgs::default());
        }
    }
}
