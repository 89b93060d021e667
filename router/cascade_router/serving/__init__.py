"""The router's faces to its clients: KServe v2 over gRPC, OpenAI images over HTTP, health, metrics and a page."""
