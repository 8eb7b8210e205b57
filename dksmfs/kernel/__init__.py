"""The simulated machine: what the DKSM kernel does, without I/O, clock or threads.

A machine has physical memory, processes that map it, and DKSM. Physical memory is *frames*, each
known by its page frame number (pfn). A process has an *address space*: its mappings (*regions*,
the kernel's vma), and page tables with an *entry* for each virtual page, which names a frame and
has bits: present, writable, accessed, dirty. Reading and writing memory makes page faults, which
fill entries. fork copies page tables, so that both sides map the same frames until one writes.

DKSM adds one thing. At `madvise(MADV_MERGEABLE)` it goes over the entries of the range. The
checksum of each page is looked up in a table of *page descriptors* (a checksum and a pfn), and if
the frame of a descriptor has the same bytes, the entry is made to point to that frame: the page is
*merged*. Otherwise the page gets a descriptor, to be found by those advertised later.

What to read, in this order; each part knows those before it only:

* `units`, `errors`, `linear` (frames and pages as ranges), `pausing` (work that takes long, in
  parts): what everything else is written in.
* `content`: what the bytes of a page are, stored or described by a formula; its checksum.
* `memory`: `frames` and what is kept of each (`frame_table`, `frame_contents`); `entries` and
  `page_tables`; `vma`, the regions; `page_cache`; and `address_space`, which joins them.
* `calls`: what a process asks for. `faults` (reading and writing), `mapping` (mmap, munmap,
  mremap, fork), `madvise` without merging, and the view `smaps`. `follow` makes an address space
  like that of a real process.
* `dksm`: `engine` has the rules, page by page. `table` holds the descriptors. `batches` and
  `known_merges` come to the same results for many pages at once.
* `machine`: one method for each thing that a process can do. Start here to follow a call down.
* `sysfs`: attributes with show and store (`attribute`), and those of a machine (`tables`).
"""
