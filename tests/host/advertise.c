/* Forks children that map pages at one place, fill page i with the number i (or 1), advertise them
 * and exit. With `together`, all of them have advertised before the first one unmaps.
 *
 * advertise PROCESSES PAGES same|different [together]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int child(int number, size_t pages, int same, int *done, int *go)
{
    char byte = 0;
    size_t length = pages * 4096;
    char *place = (char *)(uintptr_t)(0x700000000000 + 0x1000L * number);
    char *area = mmap(place, length, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (area == MAP_FAILED)
        return 2;
    for (size_t i = 0; i < pages; i++)
        for (size_t at = 0; at < 4096; at += sizeof(uint64_t))
            *(uint64_t *)(area + i * 4096 + at) = same ? 1 : i;
    mprotect(area, length, PROT_READ);
    if (madvise(area, length, MADV_MERGEABLE) != 0)
        return 3;
    if (go) {
        if (write(done[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 0)
            return 4;
    }
    munmap(area, length);
    return 0;
}

int main(int argc, char **argv)
{
    int processes = argc > 1 ? atoi(argv[1]) : 1;
    size_t pages = argc > 2 ? strtoul(argv[2], NULL, 0) : 1;
    int same = argc > 3 && !strcmp(argv[3], "same");
    int together = argc > 4;
    int done[2], go[2], failed = 0;
    char byte;

    if (pipe(done) || pipe(go))
        return 1;
    for (int number = 0; number < processes; number++) {
        if (fork() == 0) {
            close(go[1]);
            _exit(child(number, pages, same, done, together ? go : NULL));
        }
    }
    for (int number = 0; together && number < processes; number++)
        if (read(done[0], &byte, 1) != 1)
            return 1;
    close(go[1]);
    for (int number = 0; number < processes; number++) {
        int status;
        wait(&status);
        failed |= status;
    }
    return failed != 0;
}
