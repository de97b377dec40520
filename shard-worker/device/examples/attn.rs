//! scratch

#![allow(clippy::unwrap_used, reason = "a test may panic and say why")]
#![allow(clippy::print_stdout, missing_docs, clippy::unwrap_used, unsafe_code, unused)]
use std::arch::x86_64::*;
#[allow(dead_code)]
const K: usize = 2048;
#[inline(always)]
fn body<const H: usize, const MODE: usize>(x: &[[f32; H]], w: &[[u16; 32]], c: &mut [[f32; 32]; H]) {
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 2]; H];
        for r in 0..H {
            acc[r] = [_mm512_loadu_ps(c[r].as_ptr()), _mm512_loadu_ps(c[r].as_ptr().add(16))];
        }
        for (x, l) in x.iter().zip(w) {
            if MODE == 1 {
                _mm_prefetch::<_MM_HINT_T1>(l.as_ptr().wrapping_add(4096).cast());
            }
            if MODE == 2 {
                _mm_prefetch::<_MM_HINT_T0>(l.as_ptr().wrapping_add(1024).cast());
            }
            let v = _mm512_loadu_si512(l.as_ptr().cast());
            let lo = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v));
            let hi = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(0xffff0000u32 as i32)));
            for r in 0..H {
                let x = _mm512_set1_ps(x[r]);
                acc[r] = [_mm512_fmadd_ps(x, lo, acc[r][0]), _mm512_fmadd_ps(x, hi, acc[r][1])];
            }
        }
        for r in 0..H {
            _mm512_storeu_ps(c[r].as_mut_ptr(), acc[r][0]);
            _mm512_storeu_ps(c[r].as_mut_ptr().add(16), acc[r][1]);
        }
    }
}
#[target_feature(enable = "avx512f")]
fn k<const H: usize, const MODE: usize>(x: &[f32], w: &[[u16; 32]]) -> f32 {
    let x: &[[f32; H]] = x.as_chunks().0;
    let mut s = 0.0;
    for p in w.chunks_exact(K) {
        let mut c = [[0.0; 32]; H];
        body::<H, MODE>(x, p, &mut c);
        std::hint::black_box(&mut c);
        s += c[H - 1][3];
    }
    s
}

use std::time::Instant;
use tessera_device::cpu::*;
use tessera_device::*;
fn main() {
    let a: Vec<usize> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let (threads, rows) = (a[0], a[1]);
    let mut d = CpuDevice::new(CpuConfig { threads, dtype: Dtype::Bf16 }).unwrap();
    let file = vec![0x3c; 2 * 32768 * 2048];
    for (out, inner, segs) in [(32768, 2048, 1), (11264, 2048, 1), (3072, 2048, 1), (2048, 2048, 8), (2048, 5632, 8)] {
        let count = (600 << 20) / (out * inner * 2);
        let segments: Vec<usize> = (0..=segs).map(|i| i * inner / segs).collect();
        let ms: Vec<_> = (0..count)
            .map(|_| {
                let s = MatrixSource {
                    bytes: &file,
                    dtype: SourceDtype::Bf16,
                    stride: inner,
                    rows: (0..out as u32).collect(),
                    columns: 0..inner,
                };
                d.load_matrix(&[s], &segments).unwrap()
            })
            .collect();
        let x = d.tensor(rows, inner).unwrap();
        let mut o = d.tensor(rows, out).unwrap();
        let xs = vec![0.0f32; 8 * 2048];
        let (mut t1, mut t2) = (vec![], vec![]);
        for r in 0..40 {
            let b = Instant::now();
            for m in &ms {
                d.matmul(&x, m, &mut o).unwrap();
            }
            t1.push(b.elapsed().as_secs_f64());
            let b = Instant::now();
            for m in &ms {
                std::hint::black_box(unsafe {
                    match rows {
                        1 => k::<1, 1>(&xs, m.raw()),
                        2 => k::<2, 1>(&xs, m.raw()),
                        4 => k::<4, 1>(&xs, m.raw()),
                        _ => k::<8, 1>(&xs, m.raw()),
                    }
                });
            }
            t2.push(b.elapsed().as_secs_f64());
        }
        t1.sort_by(f64::total_cmp);
        t2.sort_by(f64::total_cmp);
        let g = (count * out * inner * 2) as f64 / 1e9;
        println!(
            "{out} x {inner}, {segs} segments: best {:.1} / own {:.1}, median {:.1} / {:.1} GB/s",
            g / t1[0],
            g / t2[0],
            g / t1[20],
            g / t2[20]
        );
    }
}
