//! What makes a process a good citizen: telemetry, health, reflection, shutdown
