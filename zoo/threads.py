"""Work that other threads do while the caller goes on: worth it where the work lets other threads run, as numpy's does."""

import collections
import concurrent.futures


def ahead(function, items, threads=1):
    """Yields (item, function(item)) in the order of the items; threads compute the next ones' while the caller works on one.

    What `function` raises is raised where its item's turn comes.

    Args:
        function: takes an item; called from several threads at once where there are several.
        items: an iterable, which is read by the caller's thread, at most `threads` items ahead.
        threads: how many.

    Example:
        >>> list(ahead(str.upper, "ab"))
        [('a', 'A'), ('b', 'B')]
    """
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting = collections.deque()
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > threads:
                item, result = waiting.popleft()
                yield item, result.result()
        for item, result in waiting:
            yield item, result.result()
