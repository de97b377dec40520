use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[test]
fn every_task_runs_once() {
    for threads in [1, 2, 5] {
        let pool = Pool::new(threads).unwrap();
        for tasks in [0, 1, 2, 7, 1000, 70_000] {
            let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(usize::MAX, tasks, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{tasks} tasks, {threads} threads");
        }
    }
}

#[test]
fn many_small_jobs_in_a_row_all_finish() {
    let pool = Pool::new(3).unwrap();
    let total = AtomicUsize::new(0);
    for _ in 0..20_000 {
        pool.run(usize::MAX, 3, |i| {
            total.fetch_add(i, Ordering::Relaxed);
        })
        .unwrap();
    }
    assert_eq!(total.into_inner(), 60_000);
}

#[test]
fn workers_that_slept_wake_up_for_the_next_job() {
    let pool = Pool::new(2).unwrap();
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        let barrier = std::sync::Barrier::new(2);
        // Both tasks meet, so two threads must have taken one each.
        pool.run(usize::MAX, 2, |_| {
            barrier.wait();
        })
        .unwrap();
    }
}

#[test]
fn a_panic_is_an_error_and_the_pool_works_on() {
    for threads in [1, 3] {
        let pool = Pool::new(threads).unwrap();
        let error = pool.run(usize::MAX, 100, |i| assert!(i != 42, "forty-two")).unwrap_err();
        assert_eq!(error, DeviceError::Thread("forty-two".to_owned()));
        pool.run(usize::MAX, 100, |_| ()).unwrap();
    }
}

#[test]
fn a_call_from_inside_a_task_runs_on_its_own_thread() {
    let pool = Pool::new(2).unwrap();
    let total = AtomicUsize::new(0);
    pool.run(usize::MAX, 4, |_| {
        pool.run(usize::MAX, 4, |_| {
            total.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
    })
    .unwrap();
    assert_eq!(total.into_inner(), 16);
}

#[test]
fn rows_are_given_out_in_place() {
    let pool = Pool::new(3).unwrap();
    let mut matrix = vec![0.0; 7 * 5];
    pool.rows(usize::MAX / 100, &mut matrix, 5, |row, x| x.fill(row as f32)).unwrap();
    for (i, x) in matrix.iter().enumerate() {
        assert_eq!(*x, (i / 5) as f32);
    }
}
