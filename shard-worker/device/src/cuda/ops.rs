//! The device's operations: shapes are checked here, kernels do the work.

use std::time::Duration;

use tessera_types::{DeviceDtype, DeviceSlice};

use super::{
    CudaCache, CudaChosen, CudaDevice, CudaMatrix, CudaRotary, CudaRows, CudaTable, CudaTensor, CudaVector, Recording,
    kernel::{Geometry, Kernel, int},
    shapes::{agree, cached, fused, holds, shaped, turns},
    tensor::{self, Numbers},
};
use crate::{
    CacheDtype, CacheShape, Choosing, ChosenToken, Device, DeviceError, Heads, LogitEdit, MatrixSource, PeerFailure, PeerOffer,
    PeerStop, Rows,
};

/// Threads of a block that has a row.
const THREADS: u32 = 256;
/// Numbers that a block takes where rows do not matter.
const RUN: usize = 1024;

impl Device for CudaDevice {
    type Tensor = CudaTensor;
    type Placed<'a> = CudaRows;
    type Matrix = CudaMatrix;
    type Vector = CudaVector;
    type Table = CudaTable;
    type Cache = CudaCache;
    type Rotary = CudaRotary;
    type Chosen = CudaChosen;
    type Recording = Recording;

    fn tensor(&self, rows: usize, cols: usize) -> Result<CudaTensor, DeviceError> {
        let tensor = self.matrix(rows, cols, Numbers::Full)?;
        self.context.clear(tensor.address(), tensor.bytes())?;
        Ok(tensor)
    }

    fn working(&self, rows: usize, cols: usize) -> Result<CudaTensor, DeviceError> {
        self.matrix(rows, cols, Numbers::Working)
    }

    fn place<'a>(&self, rows: Rows<'a>) -> Result<CudaRows, DeviceError> {
        self.place_rows(rows)
    }

    fn lasting(&self, rows: usize, cols: usize) -> Result<CudaTensor, DeviceError> {
        let numbers = Numbers::Working;
        let region = self.workspace.keep(tensor::bytes(rows, cols, numbers)?)?;
        Ok(CudaTensor { rows, cols, numbers, region })
    }

    fn shape(&self, tensor: &CudaTensor) -> (usize, usize) {
        (tensor.rows, tensor.cols)
    }

    fn write(&self, tensor: &mut CudaTensor, values: &[f32]) -> Result<(), DeviceError> {
        agree("write", "numbers", values.len(), tensor.len())?;
        if tensor.numbers == Numbers::Full {
            return self.upload(tensor.address(), values);
        }
        let wide = self.scratch(size_of_val(values))?;
        self.upload(wide.address(), values)?;
        let args = [wide.address().into(), tensor.address().into(), (values.len() as i64).into()];
        self.kernels.launch(Kernel::Narrow, Geometry::numbers(values.len(), RUN), &args)
    }

    fn read(&self, tensor: &CudaTensor) -> Result<Vec<f32>, DeviceError> {
        let mut values = vec![0.0; tensor.len()];
        if tensor.numbers == Numbers::Full {
            self.context.download(tensor.address(), &mut values)?;
            return Ok(values);
        }
        let wide = self.scratch(size_of_val(&*values))?;
        let args = [tensor.address().into(), wide.address().into(), (values.len() as i64).into()];
        self.kernels.launch(Kernel::Widen, Geometry::numbers(values.len(), RUN), &args)?;
        self.context.download(wide.address(), &mut values)?;
        Ok(values)
    }

    fn host_mut<'a>(&self, _: &'a mut CudaTensor) -> Option<&'a mut [f32]> {
        None
    }

    fn slice(&self, tensor: &CudaTensor) -> Option<DeviceSlice> {
        let dtype = match tensor.numbers {
            Numbers::Full => DeviceDtype::F32,
            Numbers::Working => DeviceDtype::Bf16,
        };
        let stream = self.context.stream() as u64;
        Some(DeviceSlice { address: tensor.address(), numbers: tensor.len(), dtype, stream })
    }

    fn is_idle(&self) -> Result<bool, DeviceError> {
        self.context.is_idle()
    }

    fn finish(&self) -> Result<(), DeviceError> {
        self.context.settle()
    }

    fn offer_peers(&self) -> Result<PeerOffer, DeviceError> {
        self.offer_window()
    }

    fn connect_peers(&self, rank: usize, offers: &[PeerOffer], limit: Duration) -> Result<PeerStop, DeviceError> {
        self.connect_windows(rank, offers, limit)
    }

    fn sum_over_peers(&self, values: &mut CudaTensor) -> Result<bool, DeviceError> {
        self.sum_over_windows(values)
    }

    fn peer_failure(&self) -> Option<PeerFailure> {
        self.window_failure()
    }

    fn part_from_peers(&self) {
        self.part_from_windows();
    }

    fn load_matrix(&mut self, sources: &[MatrixSource<'_>], _segments: &[usize]) -> Result<CudaMatrix, DeviceError> {
        self.new_matrix(sources)
    }

    fn load_quantisable(&mut self, sources: &[MatrixSource<'_>], _segments: &[usize]) -> Result<CudaMatrix, DeviceError> {
        self.new_quantisable(sources)
    }

    fn load_vector(&mut self, source: &MatrixSource<'_>) -> Result<CudaVector, DeviceError> {
        self.new_vector(source)
    }

    fn load_table(&mut self, source: &MatrixSource<'_>) -> Result<CudaTable, DeviceError> {
        self.new_table(source)
    }

    fn cache(&mut self, shape: CacheShape) -> Result<CudaCache, DeviceError> {
        self.new_cache(shape)
    }

    fn rotary(&mut self, head_dim: usize, theta: f64, positions: usize) -> Result<CudaRotary, DeviceError> {
        agree("rotary", "half pairs", head_dim % 2, 0)?;
        let frequency = |pair: usize| theta.powf(-2.0 * pair as f64 / head_dim as f64);
        self.new_rotary(head_dim / 2, positions, |position, pair| position as f64 * frequency(pair))
    }

    fn rotary_2d(&mut self, head_dim: usize, theta: f64, side: usize) -> Result<CudaRotary, DeviceError> {
        agree("rotary_2d", "half pairs", head_dim % 2, 0)?;
        let (pairs, frequency) = (head_dim / 2, |pair: usize| theta.powf(-2.0 * pair as f64 / head_dim as f64));
        let by_row = pairs.div_ceil(2);
        self.new_rotary(pairs, side * side, |position, pair| {
            if pair < by_row {
                (position / side) as f64 * frequency(2 * pair)
            } else {
                (position % side) as f64 * frequency(2 * (pair - by_row) + 1)
            }
        })
    }

    fn embed(&self, table: &CudaTable, first: usize, rows: &CudaRows, out: &mut CudaTensor) -> Result<(), DeviceError> {
        holds("embed", out, Numbers::Full)?;
        shaped("embed", out, rows.rows, table.dim)?;
        agree("embed", "tokens", usize::from(rows.has_tokens), 1)?;
        let args = [
            table.memory.address().into(),
            int(first)?.into(),
            int(table.tokens)?.into(),
            rows.tokens().into(),
            out.address().into(),
            int(table.dim)?.into(),
        ];
        self.kernels.launch(Kernel::Embed, Geometry::shared_rows(rows.rows, table.dim), &args)
    }

    fn copy_rows(&self, from: &CudaTensor, rows: &[usize], out: &mut CudaTensor, to: &[usize]) -> Result<(), DeviceError> {
        agree("copy_rows", "columns", out.cols, from.cols)?;
        agree("copy_rows", "rows to copy to", to.len(), rows.len())?;
        let beyond = rows.iter().any(|row| *row >= from.rows) || to.iter().any(|row| *row >= out.rows);
        agree("copy_rows", "rows beyond the end", usize::from(beyond), 0)?;
        let kernel = match (from.numbers, out.numbers) {
            (Numbers::Full, Numbers::Full) => Kernel::CopyRowsFull,
            (Numbers::Working, Numbers::Full) => Kernel::CopyRowsWiden,
            (Numbers::Working, Numbers::Working) => Kernel::CopyRowsWorking,
            (Numbers::Full, Numbers::Working) => return holds("copy_rows", from, Numbers::Working),
        };
        let indices = rows.iter().chain(to).map(|row| int(*row)).collect::<Result<Vec<_>, _>>()?;
        let places = self.scratch(size_of_val(&*indices))?;
        self.upload(places.address(), &indices)?;
        let behind = places.address() + (rows.len() * size_of::<i32>()) as u64;
        let args = [from.address().into(), places.address().into(), out.address().into(), behind.into(), int(from.cols)?.into()];
        self.kernels.launch(kernel, Geometry::shared_rows(rows.len(), from.cols), &args)
    }

    fn rms_norm(&self, x: &CudaTensor, scale: &CudaVector, eps: f32, out: &mut CudaTensor) -> Result<(), DeviceError> {
        holds("rms_norm", x, Numbers::Full)?;
        shaped("rms_norm", out, x.rows, x.cols)?;
        agree("rms_norm", "scale", scale.len, x.cols)?;
        let kernel = match out.numbers {
            Numbers::Full => Kernel::RmsNormFull,
            Numbers::Working => Kernel::RmsNormWorking,
        };
        let args = [x.address().into(), scale.memory.address().into(), out.address().into(), int(x.cols)?.into(), eps.into()];
        self.kernels.launch(kernel, Geometry::rows(x.rows, THREADS), &args)
    }

    fn matmul(&self, x: &CudaTensor, weight: &CudaMatrix, out: &mut CudaTensor) -> Result<(), DeviceError> {
        self.multiply(x, weight, out)
    }

    fn add(&self, x: &mut CudaTensor, y: &CudaTensor) -> Result<(), DeviceError> {
        holds("add", x, Numbers::Full)?;
        holds("add", y, Numbers::Working)?;
        shaped("add", y, x.rows, x.cols)?;
        let args = [x.address().into(), y.address().into(), (x.len() as i64).into()];
        self.kernels.launch(Kernel::Add, Geometry::numbers(x.len(), RUN), &args)
    }

    fn add_rms_norm(
        &self,
        x: &mut CudaTensor,
        y: &CudaTensor,
        scale: &CudaVector,
        eps: f32,
        out: &mut CudaTensor,
    ) -> Result<(), DeviceError> {
        holds("add_rms_norm", x, Numbers::Full)?;
        holds("add_rms_norm", y, Numbers::Working)?;
        holds("add_rms_norm", out, Numbers::Working)?;
        shaped("add_rms_norm", y, x.rows, x.cols)?;
        shaped("add_rms_norm", out, x.rows, x.cols)?;
        agree("add_rms_norm", "scale", scale.len, x.cols)?;
        let (scale, cols) = (scale.memory.address(), int(x.cols)?);
        let args = [x.address().into(), y.address().into(), scale.into(), out.address().into(), cols.into(), eps.into()];
        self.kernels.launch(Kernel::AddRmsNorm, Geometry::rows(x.rows, THREADS), &args)
    }

    fn add_bias(&self, x: &mut CudaTensor, bias: &CudaVector) -> Result<(), DeviceError> {
        holds("add_bias", x, Numbers::Working)?;
        agree("add_bias", "bias", bias.len, x.cols)?;
        let args = [x.address().into(), bias.memory.address().into(), int(x.cols)?.into()];
        self.kernels.launch(Kernel::AddBias, Geometry::shared_rows(x.rows, x.cols), &args)
    }

    fn swiglu(&self, gate_up: &CudaTensor, out: &mut CudaTensor) -> Result<(), DeviceError> {
        holds("swiglu", gate_up, Numbers::Working)?;
        holds("swiglu", out, Numbers::Working)?;
        shaped("swiglu", gate_up, out.rows, 2 * out.cols)?;
        let args = [gate_up.address().into(), out.address().into(), int(out.cols)?.into()];
        self.kernels.launch(Kernel::Swiglu, Geometry::shared_rows(out.rows, out.cols), &args)
    }

    fn gelu_bias(&self, x: &mut CudaTensor, bias: Option<&CudaVector>) -> Result<(), DeviceError> {
        holds("gelu_bias", x, Numbers::Working)?;
        if let Some(bias) = bias {
            agree("gelu_bias", "bias", bias.len, x.cols)?;
        }
        let bias = bias.map_or(0, |bias| bias.memory.address());
        self.kernels.launch(
            Kernel::GeluBias,
            Geometry::shared_rows(x.rows, x.cols),
            &[x.address().into(), bias.into(), int(x.cols)?.into()],
        )
    }

    fn rotate(&self, qkv: &mut CudaTensor, heads: Heads, rotary: &CudaRotary, rows: &CudaRows) -> Result<(), DeviceError> {
        fused("rotate", qkv, heads, rows)?;
        turns("rotate", heads, rotary, rows)?;
        let args = [
            qkv.address().into(),
            rotary.memory.address().into(),
            rows.positions().into(),
            int(heads.heads)?.into(),
            int(heads.kv_heads)?.into(),
            int(heads.head_dim)?.into(),
        ];
        self.kernels.launch(Kernel::Rotate, Geometry::shared_rows(rows.rows, qkv.cols), &args)
    }

    fn rotate_and_store(
        &self,
        qkv: &mut CudaTensor,
        heads: Heads,
        rotary: &CudaRotary,
        cache: &mut CudaCache,
        layer: usize,
        rows: &CudaRows,
    ) -> Result<(), DeviceError> {
        fused("rotate_and_store", qkv, heads, rows)?;
        turns("rotate_and_store", heads, rotary, rows)?;
        cached("rotate_and_store", heads, cache, layer, rows)?;
        let (keys, values) = cache.layer(layer);
        let args = [
            qkv.address().into(),
            rotary.memory.address().into(),
            rows.positions().into(),
            rows.slots().into(),
            keys.into(),
            values.into(),
            int(heads.heads)?.into(),
            int(heads.kv_heads)?.into(),
            int(heads.head_dim)?.into(),
        ];
        let kernel = match cache.shape.dtype {
            CacheDtype::Plain(_) => Kernel::RotateStore,
            CacheDtype::Fp8 => Kernel::RotateStore8,
        };
        self.kernels.launch(kernel, Geometry::shared_rows(rows.rows, qkv.cols), &args)
    }

    fn attend(
        &self,
        qkv: &CudaTensor,
        heads: Heads,
        cache: &CudaCache,
        layer: usize,
        rows: &CudaRows,
        out: &mut CudaTensor,
    ) -> Result<(), DeviceError> {
        fused("attend", qkv, heads, rows)?;
        cached("attend", heads, cache, layer, rows)?;
        holds("attend", out, Numbers::Working)?;
        shaped("attend", out, rows.rows, heads.heads * heads.head_dim)?;
        self.attend_cache(qkv, heads, (cache, layer), rows, out)
    }

    fn attend_images(&self, qkv: &CudaTensor, heads: Heads, rows: &CudaRows, out: &mut CudaTensor) -> Result<(), DeviceError> {
        fused("attend_images", qkv, heads, rows)?;
        agree("attend_images", "rows of images", usize::from(rows.images), 1)?;
        agree("attend_images", "key heads", heads.kv_heads, heads.heads)?;
        holds("attend_images", out, Numbers::Working)?;
        shaped("attend_images", out, rows.rows, heads.heads * heads.head_dim)?;
        self.attend_spans(qkv, heads, rows, out)
    }

    fn chooses(&self) -> bool {
        true
    }

    fn choose(
        &self,
        logits: &mut CudaTensor,
        parts: usize,
        vocab_size: usize,
        choosing: &[Choosing],
        edits: &[LogitEdit],
    ) -> Result<CudaChosen, DeviceError> {
        self.choose_tokens(logits, parts, vocab_size, choosing, edits)
    }

    fn nothing_chosen(&self) -> Result<CudaChosen, DeviceError> {
        let mut nothing = self.new_chosen(&[])?;
        self.fetch_chosen(&mut nothing)?;
        Ok(nothing)
    }

    fn chosen_slice(&self, chosen: &CudaChosen) -> Option<DeviceSlice> {
        Some(self.slice_of_chosen(chosen))
    }

    fn fetch(&self, chosen: &mut CudaChosen) -> Result<(), DeviceError> {
        self.fetch_chosen(chosen)
    }

    fn is_fetched(&self, chosen: &CudaChosen) -> Result<bool, DeviceError> {
        self.is_fetched_chosen(chosen)
    }

    fn fetched(&self, chosen: &mut CudaChosen) -> Result<Vec<Option<ChosenToken>>, DeviceError> {
        self.read_chosen(chosen)
    }

    fn feed(&self, placed: &CudaRows, chosen: &CudaChosen, rows: &[(usize, usize)]) -> Result<(), DeviceError> {
        self.feed_chosen(placed, chosen, rows)
    }

    fn recording(&self, rows: &CudaRows) -> Option<u64> {
        rows.recording
    }

    fn record<E: From<DeviceError>>(&self, work: impl FnOnce() -> Result<CudaTensor, E>) -> Result<(CudaTensor, Recording), E> {
        self.record_pass(work)
    }

    fn forget_recordings(&self) {
        self.recordings.clear();
    }

    fn replay(&self, recording: &Recording) -> Result<(), DeviceError> {
        recording.replay()
    }
}
