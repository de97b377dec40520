//! The front door: gRPC and OpenAI HTTP, admission, streams
