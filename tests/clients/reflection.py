"""A generic gRPC client that knows nothing but reflection: lists services, checks health, asks for model info.

usage: reflection.py GRPC_ADDRESS"""
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1].removeprefix("http://"), compression=grpc.Compression.Gzip)
reflection = ProtoReflectionDescriptorDatabase(channel)
services = set(reflection.get_services())
assert {"tessera.v1.Inference", "grpc.health.v1.Health"} <= services, services

health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="tessera.v1.Inference"), timeout=5)
assert health.status == health_pb2.HealthCheckResponse.SERVING, health

method = DescriptorPool(reflection).FindServiceByName("tessera.v1.Inference").FindMethodByName("GetModelInfo")
call = channel.unary_unary(
    "/tessera.v1.Inference/GetModelInfo",
    request_serializer=lambda message: message.SerializeToString(),
    response_deserializer=GetMessageClass(method.output_type).FromString,
)
info = call(GetMessageClass(method.input_type)(), timeout=5)
assert info.vision and info.vocab_size > 1000 and info.max_context > 0, info
print(info.model)
