"""What one machine trains: a model of one's own footage, or a longer context for one that there is."""

from dataclasses import replace

from ringworld.attention.config import AttentionConfig
from ringworld.core.mesh_config import MeshConfig
from ringworld.data.config import ClipConfig, MixtureConfig, PackingConfig, PrepareConfig
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.held_out import HeldOutConfig
from ringworld.evaluation.needles import NeedleConfig
from ringworld.inference.config import SamplingConfig, SamplingDefaults
from ringworld.model.config import Architecture, Execution
from ringworld.model.lora_config import LoraConfig
from ringworld.presets.run import RunConfig
from ringworld.training.config import Stage, TrainingConfig
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig


def laptop() -> RunConfig:
    """Nine million parameters over one's own videos at 256 px and texts, to 4K tokens, overnight on a CPU.

    Hardware: two CPU cores or more, 8 GB.
    Cost: about ten hours on two busy cores, by extrapolation: 1.2 s a step of the frame tokenizer, 3.3 s a
    step at 1K tokens and 4.5 s at 4K, over tens of steps on videos and a novel (2026-11-27).
    Never run by us to its end.

        ringworld train-tokenizer --preset laptop --videos VIDEOS --texts TEXTS --out tokenizer
        ringworld prepare --preset laptop --tokenizer tokenizer --videos VIDEOS --texts TEXTS --out examples
        ringworld train --preset laptop --data examples --out run
    """
    frame_tokenizer = FrameTokenizerConfig(
        channels=(16, 32, 64, 64, 128),
        res_blocks=1,
        latent=16,
        codebook_size=1024,
        groups=8,
    )
    stage = Stage(
        name="1K",
        context_tokens=1024,
        rope_base=1e4,
        steps=6_000,
        batch_sequences=4,
        learning_rate=1e-3,
        min_learning_rate=2e-4,
        warmup_steps=100,
        clips=ClipConfig(max_frames=3),
        mesh=MeshConfig(ring=2),
    )
    return RunConfig(
        frame_tokenizer=frame_tokenizer,
        frame_training=FrameTrainingConfig(
            steps=6_000,
            batch_frames=4,
            learning_rate=1e-3,
            warmup_steps=100,
            continuous_steps=500,
            adversarial_start_step=6_000,
        ),
        frame_training_frames=2_000,
        prepare=PrepareConfig(frames_per_second=2.0, max_frames=12, document_tokens=4_000),
        model=Architecture(
            layers=8,
            embed=256,
            heads=8,
            kv_heads=4,
            head=32,
            mlp=768,
            text_vocab=4_096,
            vision_vocab=frame_tokenizer.codebook_size + 2,
        ),
        execution=Execution(attention=AttentionConfig(layout="balanced")),
        training=TrainingConfig(
            stages=(
                stage,
                replace(
                    stage,
                    name="4K",
                    context_tokens=4096,
                    rope_base=2e5,
                    steps=2_000,
                    batch_sequences=1,
                    learning_rate=3e-4,
                    min_learning_rate=3e-5,
                    clips=ClipConfig(max_frames=12),
                ),
            ),
            log_every_steps=10,
        ),
        evaluation=EvaluationConfig(tasks=(NeedleConfig(context_tokens=(1024, 4096)), HeldOutConfig())),
        sampling=SamplingDefaults(
            image=SamplingConfig(temperature=0.8, top_k=200, guidance_scale=2.0),
            video=SamplingConfig(temperature=0.8, top_k=200, guidance_scale=2.0),
        ),
    )


def one_gpu() -> RunConfig:
    """400M parameters over one's own videos at 256 px and texts, from 4K to 64K tokens, on one GPU.

    Hardware: one GPU of 80 GB (H100, A100).
    Cost: by arithmetic, 6 x 10^19 FLOPs for 18 billion tokens: 2 days at 350 TFLOP/s; never measured.
    Never run by us on a GPU. Its step is type-checked at full size.

        ringworld train --preset one_gpu --data examples --out runs/one_gpu
    """
    frame_tokenizer = FrameTokenizerConfig(channels=(64, 128, 128, 256, 256), codebook_size=4096)
    stage = Stage(
        name="4K",
        context_tokens=2**12,
        rope_base=5e5,
        steps=60_000,
        batch_sequences=64,
        accumulation_steps=8,
        learning_rate=3e-4,
        min_learning_rate=3e-5,
        warmup_steps=2_000,
        clips=ClipConfig(max_frames=15),
    )
    longer = replace(
        stage, learning_rate=6e-5, min_learning_rate=6e-6, warmup_steps=100, clips=ClipConfig(max_frames=60)
    )
    return RunConfig(
        frame_tokenizer=frame_tokenizer,
        frame_training=FrameTrainingConfig(
            steps=100_000,
            batch_frames=32,
            learning_rate=3e-4,
            warmup_steps=1_000,
            continuous_steps=2_000,
            adversarial_start_step=60_000,
            checkpoint_every_steps=2_000,
            log_every_steps=100,
        ),
        frame_training_frames=2**15,
        prepare=PrepareConfig(max_frames=60, document_tokens=2**16, held_out_fraction=0.01),
        model=Architecture(
            layers=24,
            embed=1024,
            heads=16,
            kv_heads=4,
            head=64,
            mlp=4096,
            text_vocab=32_000,
            vision_vocab=frame_tokenizer.codebook_size + 2,
        ),
        execution=Execution(
            attention=AttentionConfig(layout="contiguous"), mlp_block_tokens=4_096, compute="bfloat16"
        ),
        training=TrainingConfig(
            stages=(
                stage,
                replace(
                    longer,
                    name="16K",
                    context_tokens=2**14,
                    rope_base=5e6,
                    steps=8_000,
                    batch_sequences=16,
                    accumulation_steps=8,
                ),
                replace(
                    longer,
                    name="64K",
                    context_tokens=2**16,
                    rope_base=2e7,
                    steps=2_000,
                    batch_sequences=4,
                    accumulation_steps=4,
                ),
            ),
            packing=PackingConfig(open_sequences=32),
            checkpoint_every_steps=500,
            log_every_steps=10,
        ),
        evaluation=EvaluationConfig(
            tasks=(NeedleConfig(context_tokens=(2**12, 2**14, 2**16), rounds=3), HeldOutConfig())
        ),
        sampling=SamplingDefaults(
            image=SamplingConfig(top_k=2_000, guidance_scale=3.0),
            video=SamplingConfig(top_k=1_000, guidance_scale=2.0),
        ),
    )


def extend_smollm2() -> RunConfig:
    """SmolLM2-135M from 8K to 32K and 128K tokens on one's own books, as LWM extends LLaMA-2.

    The first stage reads at the model's own length with the base of the next, so that what a longer context
    costs is seen apart from what a larger base costs. Questions stand beside a book, in its sidecar.

    Hardware: one GPU of 80 GB (H100, H200).
    Cost: by `ringworld plan`, 2 minutes a stage at an H100's peak, so 20 at a tenth of it; never measured.
    Never run by us on a GPU. Some steps of it were run on a CPU, at short contexts.

        make smollm2
        ringworld prepare --preset extend_smollm2 --tokenizer models/smollm2-135m --texts BOOKS --out examples
        ringworld train --preset extend_smollm2 --init models/smollm2-135m --data examples --out run
    """
    stage = Stage(
        name="8K",
        context_tokens=2**13,
        rope_base=1e6,
        steps=400,
        batch_sequences=16,
        accumulation_steps=4,
        learning_rate=2e-4,
        min_learning_rate=2e-5,
        warmup_steps=20,
        mixture=MixtureConfig(ratios={"text": 0.7, "text_qa": 0.3}),
    )
    longest = 2**17
    grid = NeedleConfig(context_tokens=(2**12, 2**13, 2**14, 2**15, 2**16, longest), max_new_tokens=32)
    return RunConfig(
        frame_tokenizer=None,
        frame_training=None,
        prepare=PrepareConfig(document_tokens=longest, held_out_fraction=0.02),
        model=Architecture(
            layers=30,
            embed=576,
            heads=9,
            kv_heads=3,
            head=64,
            mlp=1536,
            text_vocab=49_152,
            norm_eps=1e-5,
            tied=True,
        ),
        execution=Execution(
            attention=AttentionConfig(layout="contiguous"), mlp_block_tokens=8_192, compute="bfloat16"
        ),
        training=TrainingConfig(
            stages=(
                stage,
                replace(
                    stage,
                    name="32K",
                    context_tokens=2**15,
                    rope_base=5e6,
                    steps=150,
                    batch_sequences=4,
                    warmup_steps=10,
                ),
                replace(
                    stage,
                    name="128K",
                    context_tokens=longest,
                    rope_base=2e7,
                    steps=60,
                    batch_sequences=1,
                    accumulation_steps=1,
                    warmup_steps=5,
                ),
            ),
            packing=PackingConfig(open_sequences=32),
            checkpoint_every_steps=50,
            log_every_steps=5,
        ),
        evaluation=EvaluationConfig(tasks=(grid, HeldOutConfig())),
    )


def finetune_smollm2() -> RunConfig:
    """An adapter (LoRA) for SmolLM2-135M on one's own texts and conversations of up to 2K tokens.

    All matrices of its layers are adapted, at its own RoPE base; the model itself is kept in bfloat16.

    Hardware: one GPU of 8 GB, or a CPU of two cores with `--execution.compute float32`.
    Cost: by arithmetic, 6 x 10^14 FLOPs: some two hours of two CPU cores, a minute of a GPU; never measured.
    Never run by us to its end. Some steps of 512 tokens were run on a CPU, with the model in int8.

        make smollm2
        ringworld prepare --preset finetune_smollm2 --tokenizer models/smollm2-135m --texts TEXTS --out data
        ringworld train --preset finetune_smollm2 --init models/smollm2-135m --data data --out run
        ringworld chat --model run/adapters/2K
    """
    run = extend_smollm2()
    stage = Stage(
        name="2K",
        context_tokens=2**11,
        rope_base=1e5,
        steps=200,
        batch_sequences=2,
        learning_rate=2e-4,
        min_learning_rate=2e-5,
        warmup_steps=10,
    )
    return replace(
        run,
        prepare=replace(run.prepare, document_tokens=stage.context_tokens),
        training=replace(
            run.training,
            stages=(stage,),
            lora=LoraConfig(rank=16, alpha=32.0),
            log_every_steps=1,
        ),
        evaluation=EvaluationConfig(tasks=(HeldOutConfig(),)),
    )
