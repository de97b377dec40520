//! The model of time against figures computed by hand from an H100's measured bandwidth and peak.

use std::time::{Duration, Instant};

use tessera_types::{ModelSpec, Rank, ShardPlan, VisionParallel};

use super::*;
use crate::{CacheDtype, Dtype, Formats, Quantization, WeightFormat};

fn pixtral(device: &str, tp: usize) -> Roofline {
    sharing_images(device, tp, VisionParallel::Tensor)
}

fn sharing_images(device: &str, tp: usize, parallel: VisionParallel) -> Roofline {
    pixtral_in(Dtype::Bf16.into(), device, tp, parallel)
}

fn pixtral_in(formats: Formats, device: &str, tp: usize, parallel: VisionParallel) -> Roofline {
    let spec = ModelSpec::pixtral_12b();
    let plan = ShardPlan::new(&spec, tp, Rank(0)).unwrap().sharing_images(parallel);
    Roofline::new(device.parse().unwrap(), &spec, &plan, formats)
}

/// A token for each of `batch` sequences that have `context` already.
fn decode(batch: usize, context: usize) -> Work {
    Work { images: vec![], chunks: vec![ChunkWork { start: context, len: 1 }; batch], logits: batch }
}

fn prefill(tokens: usize) -> Work {
    Work { images: vec![], chunks: vec![ChunkWork { start: 0, len: tokens }], logits: 1 }
}

fn image(patches: usize) -> Work {
    Work { images: vec![patches], ..Work::default() }
}

fn seconds(roofline: &Roofline, work: &Work) -> f64 {
    roofline.step(work).total().as_secs_f64()
}

#[track_caller]
fn within_5_percent(got: f64, expected: f64) {
    assert!((got / expected - 1.0).abs() < 0.05, "{got} is not {expected}");
}

#[test]
fn an_h100_decodes_pixtral_12b_at_the_rates_of_its_bandwidth() {
    let h100 = pixtral("h100", 1);
    for (batch, rate) in [(1, 129.0), (8, 980.0), (32, 3366.0), (64, 5665.0), (128, 8605.0)] {
        within_5_percent(batch as f64 / seconds(&h100, &decode(batch, 1024)), rate);
    }
}

#[test]
fn an_h100_prefills_pixtral_12b_at_the_rates_of_its_peak() {
    let h100 = pixtral("h100", 1);
    for (tokens, rate) in [(1024, 36.0e3), (4096, 34.5e3), (32_768, 24.5e3), (131_072, 12.3e3)] {
        within_5_percent(tokens as f64 / seconds(&h100, &prefill(tokens)), rate);
    }
}

#[test]
fn an_h100_encodes_a_picture_of_1024_by_1024_in_six_and_a_half_milliseconds() {
    let time = pixtral("h100", 1).step(&image(64 * 64));
    within_5_percent(time.encode.as_secs_f64(), 6.5e-3);
    assert_eq!((time.forward, time.collective), (Duration::ZERO, Duration::ZERO));
}

#[test]
fn images_are_shared_by_tensor_or_by_image_as_real_ranks_share_them() {
    let encode = |parallel, images: &[usize]| {
        let time = sharing_images("h100", 2, parallel).step(&Work { images: images.to_vec(), ..Work::default() });
        (time.encode.as_secs_f64(), time.collective.as_secs_f64())
    };
    let (tensor, sums) = encode(VisionParallel::Tensor, &[4096]);
    // 49 sums: 48 of 8.4 MB and one of 42 MB, at 450 GB/s.
    within_5_percent(sums, 49.0 * 6.5e-6 + (48.0 * 8.39e6 + 41.9e6) / 450e9);
    within_5_percent(tensor - sums, 6.5e-3 / 2.0);
    let (image, handed_round) = encode(VisionParallel::Image, &[4096, 4096]);
    within_5_percent(image - handed_round, 6.5e-3);
    within_5_percent(handed_round, 2.0 * (6.5e-6 + 41.9e6 / 450e9));
    for (images, way) in [(vec![4096], VisionParallel::Tensor), (vec![256; 2], VisionParallel::Image)] {
        assert_eq!(encode(VisionParallel::Auto, &images), encode(way, &images), "{images:?}");
    }
}

#[test]
fn two_ranks_halve_the_reading_and_pay_eighty_all_reduces_a_token() {
    let work = decode(1, 1024);
    let time = pixtral("h100", 2).step(&work);
    within_5_percent(time.collective.as_secs_f64(), 80.0 * 6.5e-6);
    let one = seconds(&pixtral("h100", 1), &work);
    within_5_percent((time.total() - time.collective).as_secs_f64(), one / 2.0);
}

#[test]
fn weights_in_fp8_halve_what_a_token_reads_of_the_layers_and_nothing_else() {
    let fp8 = WeightFormat { dtype: Dtype::Bf16, quantization: Some(Quantization::Fp8) };
    let (bf16, fp8) = (pixtral("h100", 1), pixtral_in(fp8.into(), "h100", 1, VisionParallel::Tensor));
    // A byte less for each weight of 40 layers, at 3.0 TB/s.
    let saved = seconds(&bf16, &decode(1, 1024)) - seconds(&fp8, &decode(1, 1024));
    within_5_percent(saved, 40.0 * 272_629_760.0 / 3.0e12);
    // Bound by arithmetic, which is the same.
    assert_eq!(fp8.step(&prefill(4096)), bf16.step(&prefill(4096)));
    assert_eq!(fp8.step(&image(4096)), bf16.step(&image(4096)));
}

#[test]
fn keys_and_values_in_fp8_take_132_bytes_a_head_to_read_and_nothing_else() {
    let fp8 = Formats { cache: CacheDtype::Fp8, ..Dtype::Bf16.into() };
    let (bf16, fp8) = (pixtral("h100", 1), pixtral_in(fp8, "h100", 1, VisionParallel::Tensor));
    // 64 sequences of 32k tokens: keys and values of 40 layers and 8 heads, 256 bytes each or 132, at 3.0 TB/s.
    let saved = seconds(&bf16, &decode(64, 32_768)) - seconds(&fp8, &decode(64, 32_768));
    within_5_percent(saved, 64.0 * 32_768.0 * 2.0 * 40.0 * 8.0 * (256.0 - 132.0) / 3.0e12);
    assert_eq!(fp8.step(&prefill(4096)), bf16.step(&prefill(4096)));
    assert_eq!(fp8.step(&image(4096)), bf16.step(&image(4096)));
}

#[test]
fn chunks_too_small_to_keep_the_device_busy_read_the_weights_again_and_again() {
    let h100 = pixtral("h100", 1);
    let in_chunks = |len: usize| -> f64 {
        let chunk = |start| Work { chunks: vec![ChunkWork { start, len }], ..Work::default() };
        (0..4096 / len).map(|i| seconds(&h100, &chunk(len * i))).sum()
    };
    let whole = in_chunks(4096);
    within_5_percent(in_chunks(512), whole);
    // 21.8 GB at 3.0 TB/s for each of 64 chunks.
    assert!(in_chunks(64) > 64.0 * 7.2e-3);
}

#[test]
fn faster_memory_decodes_faster_and_prefills_the_same() {
    let [a100, h100, h200] = ["a100", "h100", "h200"].map(|name| pixtral(name, 1));
    let decode = decode(8, 1024);
    // The data sheets' bandwidths: 2.039, 3.35 and 4.8 TB/s.
    within_5_percent(seconds(&a100, &decode) / seconds(&h100, &decode), 3.35 / 2.039);
    within_5_percent(seconds(&h100, &decode) / seconds(&h200, &decode), 4.8 / 3.35);
    within_5_percent(seconds(&h200, &prefill(4096)), seconds(&h100, &prefill(4096)));
}

#[test]
fn a_factor_scales_every_time_and_zero_takes_none() {
    let work = Work { images: vec![256], ..decode(3, 500) };
    let (plain, slow) = (pixtral("h100", 4).step(&work), pixtral("h100*10", 4).step(&work));
    for (plain, slow) in [(plain.encode, slow.encode), (plain.forward, slow.forward), (plain.collective, slow.collective)] {
        assert!((slow.as_secs_f64() / plain.as_secs_f64() - 10.0).abs() < 1e-3);
    }
    assert_eq!(pixtral("h100*0", 4).step(&work), StepTime::default());
}

#[test]
fn the_cache_has_what_the_weights_leave() {
    let weights = 25_365_479_424;
    let tokens = Accelerator::H100.cache_memory(weights) / (160 * 1024);
    assert_eq!(tokens, (72_000_000_000 - weights) / (160 * 1024));
    assert_eq!(Accelerator::H100.cache_memory(u64::MAX), 0);
}

#[test]
fn a_device_is_named_or_refused_with_the_reason() {
    let config: SimConfig = "h200*2.5".parse().unwrap();
    assert_eq!(config, SimConfig { accelerator: Accelerator::H200, factor: 2.5 });
    assert_eq!(config.to_string(), "h200*2.5");
    assert_eq!("a100".parse::<SimConfig>().unwrap().to_string(), "a100");
    assert_eq!("tpu".parse::<SimConfig>(), Err(SimConfigError::Unknown("tpu".into())));
    for factor in ["", "-1", "NaN", "inf", "x", "1e7"] {
        assert_eq!(format!("h100*{factor}").parse::<SimConfig>(), Err(SimConfigError::Factor(factor.into())));
    }
}

#[test]
fn steps_given_ahead_follow_each_other_without_a_gap() {
    let start = Instant::now();
    let ms = Duration::from_millis;
    let mut clock = Clock::new(start);
    assert_eq!(clock.occupy(start + ms(5), ms(10)), start + ms(15));
    assert_eq!(clock.occupy(start + ms(6), ms(10)), start + ms(25), "it waited for the one before");
    assert_eq!(clock.occupy(start + ms(100), ms(10)), start + ms(110), "idle time is not made up for");
}
