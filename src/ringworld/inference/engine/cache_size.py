"""How large the cache of an engine is, in pages, and what has room in it."""

from bisect import bisect_left
from dataclasses import dataclass, replace

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_number
from ringworld.inference.config import EngineConfig
from ringworld.inference.engine.sequence import GenerationRequest

_LEAST_PAGE_TOKENS = 32
_MOST_PAGES_OF_CONTEXT = 1024
_USUAL_CACHE_TOKENS = 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSize:
    """The pages of one pool."""

    context_tokens: int
    """Longest sequence."""
    page_tokens: int
    """Of a page, a multiple of the members of the ring."""
    pages: int
    """Pages of the pool, of which sequences hold all but page 0."""
    chunk_tokens: int
    """Most that are read at once, a power of two of pages."""
    max_sequences: int
    """That hold pages at once."""

    @staticmethod
    def of(config: EngineConfig, *, context_tokens: int, members: int) -> "CacheSize":
        """Choose what a configuration leaves open, for a ring of so many members.

        Example:
            Of 4,096 tokens of context the cache holds two contexts by default, in 256 pages of 32 tokens.

        Raises:
            InputError: the cache holds less than a context.
        """
        wanted = config.page_tokens or max(
            _LEAST_PAGE_TOKENS, 1 << (context_tokens // _MOST_PAGES_OF_CONTEXT - 1).bit_length()
        )
        page = -(-wanted // members) * members
        held = config.cache_tokens or max(context_tokens, min(2 * context_tokens, _USUAL_CACHE_TOKENS))
        check_number(
            "cache_tokens",
            held,
            least=context_tokens,
            remedy="hold at least one context, or load the model with a shorter one",
        )
        return CacheSize(
            context_tokens=context_tokens,
            page_tokens=page,
            pages=1 + max(-(-context_tokens // page), held // page),
            chunk_tokens=page << max(0, (config.chunk_tokens // page).bit_length() - 1),
            max_sequences=config.max_sequences,
        )

    @property
    def table_pages(self) -> int:
        """Most pages of a sequence."""
        return -(-self.context_tokens // self.page_tokens)

    def check_room(self, request: GenerationRequest) -> None:
        """Refuse a request that never has room, though each of its sequences fits into the context.

        Raises:
            InputError: guidance needs more sequences or pages than there are.
        """
        sequences, pages = len(request.most_tokens), self._pages_of(request)
        if sequences > self.max_sequences or pages >= self.pages:
            held = f"{self.max_sequences} sequences and {self.pages - 1} pages"
            sampling = request.sampling if request.clips is None else request.clips.sampling
            raise InputError(
                f"guidance takes {sequences} sequences and {pages} pages, but this engine has {held}",
                field="guidance_scale",
                value=sampling.guidance_scale,
                remedy="use a guidance_scale of 1, or an engine of more",
            )

    def room(self, request: GenerationRequest) -> int:
        """Return the largest `max_new_tokens` with which a request fits into the context and the cache."""

        def is_too_many(new: int) -> bool:
            longer = replace(request, max_new_tokens=new)
            return max(longer.most_tokens) > self.context_tokens or self._pages_of(longer) >= self.pages

        return bisect_left(range(1, self.context_tokens + 1), True, key=is_too_many)

    def _pages_of(self, request: GenerationRequest) -> int:
        return sum(-(-tokens // self.page_tokens) for tokens in request.most_tokens)
