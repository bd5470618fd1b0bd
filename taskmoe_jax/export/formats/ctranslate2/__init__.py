"""CTranslate2: float32, float16 and int8 on CPUs and GPUs."""
