//! Tokenizer, prompt layout, image decoding and preprocessing
