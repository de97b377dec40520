//! One replica's brain: claims workers, drives steps, streams tokens
