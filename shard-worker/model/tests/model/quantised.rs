//! What weights mean once they are quantised to e4m3, worked out here from the format's table: a reference for devices that
//! quantise.

use safetensors::tensor::Dtype as StoredDtype;
use tempfile::TempDir;

use crate::checkpoints::{config, folder, tensors};

/// Codes of numbers that are not negative, the NaN left out.
const CODES: std::ops::Range<u8> = 0..0x7f;

/// What a code means: 4 bits of exponent, biased by 7, and 3 of mantissa; without the leading one where the exponent is 0.
fn meaning(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3), f64::from(code & 7) / 8.0);
    if exponent == 0 { mantissa * 2f64.powi(-6) } else { (1.0 + mantissa) * 2f64.powi(exponent - 7) }
}

/// The number nearest to x; of two the one with the even code.
fn nearest(x: f64) -> f64 {
    let key = |code: &u8| ((meaning(*code) - x.abs()).abs(), code % 2);
    let best = CODES.min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap()).unwrap();
    meaning(best).copysign(x)
}

/// bf16 rows as f32 ones of what they mean in e4m3, each with the scale that makes its largest number 448. Numbers are divided in
/// f32, as devices do: of numbers of so few bits many lie half-way between two codes then, which exactly divided ones would miss.
fn quantised(bytes: &[u8], inner: usize) -> Vec<u8> {
    let values: Vec<f32> = bytes.chunks(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    let row = |row: &[f32]| {
        let most = row.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let scale = if most == 0.0 { 1.0 } else { most / 448.0 };
        row.iter().map(|x| (nearest(f64::from(*x / scale)) * f64::from(scale)) as f32).collect::<Vec<_>>()
    };
    values.chunks(inner).flat_map(row).flat_map(f32::to_le_bytes).collect()
}

/// Whether a tensor of either layout is a product of the decoder's layers.
fn is_product(name: &str) -> bool {
    let mistral = name.starts_with("layers.") && (name.contains(".attention.w") || name.contains(".feed_forward.w"));
    mistral || name.starts_with("language_model.model.layers.") && name.ends_with("_proj.weight")
}

/// A fixture's checkpoint with the products of its decoder's layers quantised.
pub(crate) fn checkpoint(layout: &str) -> TempDir {
    let mut tensors = tensors(layout);
    let mut products = 0;
    for (_, (dtype, shape, bytes)) in tensors.iter_mut().filter(|(name, _)| is_product(name)) {
        assert_eq!(*dtype, StoredDtype::BF16);
        (*dtype, *bytes) = (StoredDtype::F32, quantised(bytes, shape[1]));
        products += 1;
    }
    assert_eq!(products, 4 * 7, "seven to a layer");
    let (file, configuration) =
        if layout == "hf" { ("model.safetensors", "config.json") } else { ("consolidated.safetensors", "params.json") };
    folder(file, &tensors, (configuration, config(layout, configuration)))
}
