from pathlib import Path

import jax

# Most of the suite's time is compilation, and many tests compile the same programs.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache/xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
