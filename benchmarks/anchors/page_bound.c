/*
 * The least that merging identical pages can cost: XXH64 and memcmp of every page, on one core.
 * The anchor of `python -m benchmarks advertise`.
 *
 *     page_bound DESCRIPTOR PAGES
 *
 * maps the memory behind the descriptor twice over, once as a copy to compare with. For each line
 * on standard input it does all pages once and prints the nanoseconds that took.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE_SIZE 4096

#define P1 0x9E3779B185EBCA87ULL
#define P2 0xC2B2AE3D27D4EB4FULL
#define P3 0x165667B19E3779F9ULL
#define P4 0x85EBCA77C2B2AE63ULL

static inline uint64_t rotated(uint64_t value, int bits)
{
	return value << bits | value >> (64 - bits);
}

static inline uint64_t mixed(uint64_t lane, uint64_t word)
{
	return rotated(lane + word * P2, 31) * P1;
}

static inline uint64_t merged(uint64_t hash, uint64_t lane)
{
	return (hash ^ mixed(0, lane)) * P1 + P4;
}

/* XXH64 with seed 0 of exactly one page, which has no rest after its 128 stripes of 32 bytes. */
static uint64_t xxh64_page(const void *page)
{
	uint64_t a = P1 + P2, b = P2, c = 0, d = -P1, hash;
	const uint64_t *words = page;

	for (int i = 0; i < PAGE_SIZE / 8; i += 4) {
		a = mixed(a, words[i]);
		b = mixed(b, words[i + 1]);
		c = mixed(c, words[i + 2]);
		d = mixed(d, words[i + 3]);
	}
	hash = rotated(a, 1) + rotated(b, 7) + rotated(c, 12) + rotated(d, 18);
	hash = merged(merged(merged(merged(hash, a), b), c), d) + PAGE_SIZE;
	hash = (hash ^ hash >> 33) * P2;
	hash = (hash ^ hash >> 29) * P3;
	return hash ^ hash >> 32;
}

static int64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
	size_t pages = argc == 3 ? strtoul(argv[2], NULL, 10) : 0, size = pages * PAGE_SIZE;
	char *memory, *copy, line[64];

	if (!pages)
		return 2;
	memory = mmap(NULL, size, PROT_READ, MAP_PRIVATE, atoi(argv[1]), 0);
	copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || copy == MAP_FAILED)
		return 1;
	madvise(copy, size, MADV_NOHUGEPAGE);
	memcpy(copy, memory, size);
	printf("%llx\n", (unsigned long long)xxh64_page(memory));
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		int64_t start = now_ns();
		uint64_t all = 0;

		for (size_t at = 0; at < size; at += PAGE_SIZE) {
			all ^= xxh64_page(memory + at);
			all += memcmp(memory + at, copy + at, PAGE_SIZE) != 0;
		}
		printf("%lld %llx\n", (long long)(now_ns() - start), (unsigned long long)all);
		fflush(stdout);
	}
	return 0;
}
