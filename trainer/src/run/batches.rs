//! Batches of the corpus as the engine takes them.

use bellows_data::Batch;
use bellows_engine::model::Sequences;
use bellows_engine::objective::Targets;
use bellows_engine::step::MicroBatch;

/// Converts a packed batch. Where every row is one document from position 0, masks and positions
/// are left to the engine, which then shares them between rows.
pub fn micro_batch(batch: &Batch) -> MicroBatch {
    let time = batch.sequence_length;
    let one_document = batch
        .segment_ids
        .chunks_exact(time)
        .all(|row| row.iter().all(|&segment| segment == row[0]));
    let from_zero = batch.position_ids.chunks_exact(time).all(|row| {
        row.iter()
            .enumerate()
            .all(|(at, &position)| position == at as i32)
    });
    MicroBatch {
        sequences: Sequences {
            batch: batch.batch_size,
            time,
            ids: batch.input_ids.clone(),
            documents: (!one_document).then(|| {
                let ids = batch.segment_ids.iter();
                // Padding is a document of its own.
                ids.map(|&segment| segment as u32).collect()
            }),
            positions: (!from_zero).then(|| batch.position_ids.clone()),
        },
        labels: batch.labels.clone(),
        targets: Targets::Labels,
    }
}
