"""The simulated machine: what the DKSM kernel does, without I/O, clock or threads.

A machine has physical memory, processes that map it, and DKSM. Physical memory is *frames*, each
known by its page frame number (pfn). A process has an *address space*: its mappings (*regions*,
the kernel's vma), and page tables with an *entry* for each virtual page. An entry names a frame and
has bits: present, writable, accessed, dirty. Reading and writing memory makes page faults, which
fill entries. fork copies page tables: both sides map the same frames until one of them writes.

DKSM adds one thing. `madvise(MADV_MERGEABLE)` walks the entries of a range. The checksum of each
page is looked up in a table of *page descriptors* (a checksum and a pfn). If the frame of a
descriptor has the same bytes as the page, the entry is made to point to that frame: the page is
*merged*. Otherwise the page gets a descriptor, and pages that are advertised later can merge with
it.

Three ideas run through all parts.

* **The rules stand alone.** `dksm.engine` has them, page by page, as the kernel has, and a machine
  with nothing else is exact: `Machine(shortcuts=())`. A *shortcut* comes to the same result for
  many pages with less work. It is handed to the machine from outside (`Machine(shortcuts=...)`),
  and its module begins with the reason why it is exact.
* **Work has pauses.** What may take long is a generator that yields about once a millisecond, so
  that others can look at the machine meanwhile. `machine.madvise(...)` runs to its end;
  `machine.madvise.work(...)` has the pauses.
* **Bytes are hashed and compared as rarely as possible.** A frame refers to a page of a *content*,
  which is stored, or described by a formula. The hash of a frame is kept while the frame cannot
  change. A frame that was proven to hold the bytes of another is its *twin* and takes its hash.

What to read, in this order. A part knows only those before it.

* `units`: page sizes, and the types of page numbers. `errors`, `pausing`, `selection` (frames or
  pages as an array or a range): what everything else is written in.
* `content`: the bytes of a page, stored (`stored`) or described (`described`, `formulas`); its hash
  (`xxh64`); comparing (`comparison`).
* `memory`: `frames` is the frame table. `frame_contents` and `content_table` say what frames hold,
  `hashing` what its hash is, `columns` and `vacancies` are made for them. `entries` and
  `page_tables` map frames; `vma` has the regions, `page_cache` the files; `address_space` joins
  them. `version` counts the changes that make a known outcome uncertain.
* `calls`: what a process asks for. `faults` (reading and writing), `mapping` (mmap, munmap,
  mprotect, mremap, mlock, fork), `madvise` without merging, and the view `smaps`. `follow` brings
  an address space to the state of a real process.
* `dksm`: `engine`, and what it walks and looks up (`walk`, `table`). The shortcuts are `batches`,
  thousands of pages at once (of which `batch`, `plain`, `chains`, `descriptors` and `turns` are
  parts), and `known_merges`, regions like one before.
* `machine`: one method for each thing that a process can do. To follow a call down, start here.
* `sysfs`: attributes with show and store (`attribute`), and those of a machine (`tables`).
"""
