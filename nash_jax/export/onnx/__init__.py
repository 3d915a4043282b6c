"""ONNX: an encoder and a decoder graph, built from the spec and the parameters, in files that other readers know."""
