use crate::driver::*;
use tessera_device::Dtype;
use tessera_model::WeightSource;
use tessera_types::*;
#[test]
#[ignore]
fn speed() {
    let source = WeightSource::dummy(ModelSpec::bench_1b(), 1);
    for tp in [1, 2] {
        let began = std::time::Instant::now();
        group_of(&source, tp, Dtype::Bf16, |model| {
            println!("load {:?}", began.elapsed());
            let mut d = Driver::new();
            for id in 0..8 {
                let mut sampling = greedy();
                sampling.logprobs.generated = None;
                sampling.temperature = 0.8;
                d.start(SequenceStart { sequence: SequenceId(id), tokens: (0..64).map(TokenId).collect(), prompt_len: 64, images: vec![], sampling });
            }
            for id in 0..8 { d.chunk(id, 64); let o = d.step(model, &mut |_, _, _| {}); println!("prefill 64 {:?}", o.timings); }
            for n in [1, 1, 1, 1, 8, 8, 8] {
                for id in 0..n { d.chunk(id, 1); }
                let b = std::time::Instant::now();
                let o = d.step(model, &mut |_, _, _| {});
                println!("decode {n} {:?} {:?}", b.elapsed(), o.timings);
            }
        });
    }
}
