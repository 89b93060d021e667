# The project's images: docker buildx bake [operator|router|triton], with REGISTRY, TAG and PLATFORMS from the environment.

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
  params = [component]
  result = ["${REGISTRY == "" ? "" : "${REGISTRY}/"}diffusion-cascade-${component}:${TAG}"]
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
  tags       = name("operator")
}

target "router" {
  inherits   = ["base"]
  dockerfile = "router/Dockerfile"
  tags       = name("router")
}

target "triton" {
  inherits   = ["base"]
  dockerfile = "model-repo/Dockerfile"
  tags       = name("triton")
}
