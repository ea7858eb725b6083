"""llama.cpp's own server, from the wheels of `xllamacpp`, whose C++ takes requests and batches them.

    python benchmarks/peers/llama_server.py smollm2-f32.gguf --port 8001 --sequences 16 --context-tokens 1024

Its wheels for Linux are compiled for AVX2, and not for what else a processor has.
"""

import argparse
import signal

import xllamacpp


def main() -> None:
    """Serve a GGUF file until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--context-tokens", type=int, default=1024, help="of each sequence")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = asked.model
    params.port = asked.port
    params.n_parallel, params.n_ctx = asked.sequences, asked.sequences * asked.context_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked.threads
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
