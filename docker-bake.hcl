# The project's images: docker buildx bake [operator|router|triton|triton-cpu], with REGISTRY, TAG and PLATFORMS from the environment.

variable "REGISTRY" {
  default = ""
}

variable "TAG" {
  default = "0.1.0"
}

variable "PLATFORMS" {
  default = "linux/amd64"
}

function "name" {
  params = [component, flavour]
  result = ["${REGISTRY == "" ? "" : "${REGISTRY}/"}diffusion-cascade-${component}:${TAG}${flavour}"]
}

group "default" {
  targets = ["operator", "router", "triton"]
}

target "base" {
  context   = "."
  platforms = split(",", PLATFORMS)
}

target "operator" {
  inherits   = ["base"]
  dockerfile = "operator/Dockerfile"
  tags       = name("operator", "")
}

target "router" {
  inherits   = ["base"]
  dockerfile = "router/Dockerfile"
  tags       = name("router", "")
}

target "triton" {
  inherits   = ["base"]
  dockerfile = "model-repo/Dockerfile"
  tags       = name("triton", "")
}

# For tests on clusters without a GPU, such as kind on a laptop: its Triton is that of the last wheel, 2.51, and old.
target "triton-cpu" {
  inherits   = ["triton"]
  args       = { BASE = "docker.io/library/python:3.11.13-slim-bookworm", LOCK = "runtime-cpu" }
  tags       = name("triton", "-cpu")
}
