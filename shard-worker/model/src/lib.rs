//! Pixtral's forward pass over a device and a collective
