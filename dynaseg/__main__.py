
# %% auto #0
__all__ = []

# %% ../nbs/19_cli.ipynb #62afda4a
#| eval: false
from .cli import main

if __name__ == "__main__": main()

# %% ../nbs/19_cli.ipynb #62afda4a
#| eval: false
from .cli import main

if __name__ == "__main__": main()

# %% ../nbs/19_cli.ipynb #62afda4a
#| eval: false
from .cli import main

if __name__ == "__main__": main()

# %% ../nbs/19_cli.ipynb #62afda4a
#| eval: false
from .cli import main

if __name__ == "__main__": main()

# %% ../nbs/19_cli.ipynb #62afda4a
#| eval: false
from .cli import main

if __name__ == "__main__": main()

# %% ../nbs/19_cli.ipynb #62afda4a
#| eval: false
from .cli import main

if __name__ == "__main__": main()

# %% ../nbs/19_cli.ipynb #62afda4a
#| eval: false
from .cli import main

if __name__ == "__main__": main()

# %% ../nbs/19_cli.ipynb #62afda4a
#| eval: false
from .cli import main

if __name__ == "__main__": main()

# %% ../nbs/19_cli.ipynb #62afda4a
#| eval: false
from .cli import main

if __name__ == "__main__": main()