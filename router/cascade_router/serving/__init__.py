"""The router's protocols: KServe v2 over gRPC, OpenAI images over HTTP, health, metrics and the playground page."""
