//! scratch
#![allow(clippy::print_stdout, missing_docs, clippy::unwrap_used)]
#![allow(unsafe_code, unused)]
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
    let bytes: usize = 1536 << 20;
    unsafe extern "C" {
        fn mmap(a: *mut u8, l: usize, p: i32, f: i32, fd: i32, o: i64) -> *mut u8;
        fn madvise(a: *mut u8, l: usize, v: i32) -> i32;
    }
    let w: &mut [u16] = unsafe {
        let m = mmap(std::ptr::null_mut(), bytes + (2 << 20), 3, 0x22, -1, 0);
        let m = m.add(m.align_offset(2 << 20));
        madvise(m, bytes, 14);
        std::slice::from_raw_parts_mut(m.cast(), bytes / 2)
    };
    w.fill(0x3c3c);
    let lines: &[[u16; 32]] = w.as_chunks().0;
    let own = |x: &[f32], t: usize| {
        let n = lines.len();
        let mut g = vec![];
        for _ in 0..1 {
            let b = std::time::Instant::now();
            std::thread::scope(|s| {
                for i in 0..t {
                    s.spawn(move || std::hint::black_box(unsafe { k::<8, 1>(&x[..8 * K], &lines[i * n / t..(i + 1) * n / t]) }));
                }
            });
            g.push(bytes as f64 / 1e9 / b.elapsed().as_secs_f64());
        }
        g.sort_by(f64::total_cmp);
        println!("own: median {:.1} best {:.1}", g[0], g[0]);
    };
    let direct = |x: &[f32], name: &str| {
        let n = lines.len();
        let mut g = vec![];
        for _ in 0..1 {
            let b = std::time::Instant::now();
            for l in lines.chunks(1 << 21) {
                std::hint::black_box(unsafe { k::<8, 1>(&x[..8 * K], l) });
            }
            g.push(bytes as f64 / 1e9 / b.elapsed().as_secs_f64());
        }
        g.sort_by(f64::total_cmp);
        println!("direct {name}: median {:.1} best {:.1}", g[0], g[0]);
    };
    let xv: Vec<f32> = vec![0.0; 16 * K];
    own(&xv, threads);
    let xt = d.tensor(8, 2048).unwrap();
    own(&d.read(&xt).unwrap(), threads);
    let mut xt = d.tensor(16, 2048).unwrap();
    own(d.host_mut(&mut xt).unwrap(), threads);
    let file = vec![0x3c; 2 * 32768 * 2048];
    for (out, inner, segs) in
        [(32768, 2048, 1), (11264, 2048, 1), (3072, 2048, 1), (2048, 2048, 1), (2048, 2048, 8), (2048, 5632, 1), (2048, 5632, 8)]
    {
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
        {
            let mut small = d.tensor(8, 2048).unwrap();
            let xs: Vec<f32> = d.host_mut(&mut small).unwrap().to_vec();
            let mut line = String::new();
            for r in 0..6 {
                for m in &ms {
                    let by = m.raw().len() as f64 * 64.0 / 1e9;
                    let b = Instant::now();
                    d.matmul(&x, m, &mut o).unwrap();
                    let t1 = b.elapsed().as_secs_f64();
                    let b = Instant::now();
                    std::hint::black_box(unsafe { k::<8, 1>(&xs, m.raw()) });
                    let t2 = b.elapsed().as_secs_f64();
                    if line.len() < 400 {
                        line += &format!("{:.1}/{:.1} ", by / t1, by / t2);
                    }
                }
            }
            println!("{line}");
        }
        let mut best = f64::MAX;
        let mut all = vec![];
        for _ in 0..6 {
            let t = Instant::now();
            for m in &ms {
                d.matmul(&x, m, &mut o).unwrap();
            }
            let e = t.elapsed().as_secs_f64();
            best = best.min(e);
            all.push(e);
        }
        all.sort_by(f64::total_cmp);
        let g = (count * out * inner * 2) as f64 / 1e9;
        direct(&xv, "vec");
        direct(d.host_mut(&mut xt).unwrap(), "tensor");
        {
            let mut g = vec![];
            for _ in 0..7 {
                let b = std::time::Instant::now();
                let mut by = 0;
                for m in &ms {
                    by += m.raw().len() * 64;
                    std::hint::black_box(unsafe { k::<8, 1>(&xv[..8 * K], m.raw()) });
                }
                g.push(by as f64 / 1e9 / b.elapsed().as_secs_f64());
            }
            g.sort_by(f64::total_cmp);
            println!("direct on weights: median {:.1} best {:.1}", g[0], g[0]);
        }
        {
            let mut small = d.tensor(8, 2048).unwrap();
            direct(d.host_mut(&mut small).unwrap(), "small");
        }
        println!("{out} x {inner}, {segs} segments: best {:.1}, median {:.1} GB/s", g / best, g / all[3]);
    }
}
