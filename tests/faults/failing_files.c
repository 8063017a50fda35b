/* LD_PRELOAD: the k-th operation on files below a folder fails, whichever library of the process asks for it.
   fail_at(folder, k, error) arms it, k = 0 only counts; operations() tells how many there were, failed() which one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static int wanted, error_number, count;
static char watched[65536];
static char last[64];

void fail_at(const char *path, int k, int error) {
    strncpy(folder, path, sizeof folder - 1);
    wanted = k, error_number = error, count = 0, last[0] = 0;
}
int operations(void) { return count; }
const char *failed(void) { return last; }

static int below(const char *path) { return folder[0] && path && !strncmp(path, folder, strlen(folder)); }
static int known(int file) { return file >= 0 && file < (int)sizeof watched && watched[file]; }
static int fails(const char *name) {
    if (++count != wanted) return 0;
    strcpy(last, name);
    errno = error_number;
    return 1;
}
#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int opened(int file, const char *path) {
    if (file >= 0 && file < (int)sizeof watched) watched[file] = below(path);
    return file;
}
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (below(path) && fails("open")) return -1; \
        return opened(real(path, flags, mode), path); \
    }
#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(name); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (below(path) && fails("open")) return -1; \
        return opened(real(at, path, flags, mode), path); \
    }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

int close(int file) { REAL(close); if (known(file)) watched[file] = 0; return real(file); }
ssize_t write(int file, const void *from, size_t size) {
    REAL(write);
    if (known(file) && fails("write")) return -1;
    return real(file, from, size);
}
ssize_t writev(int file, const struct iovec *parts, int n) {
    REAL(writev);
    if (known(file) && fails("write")) return -1;
    return real(file, parts, n);
}
int fsync(int file) { REAL(fsync); if (known(file) && fails("fsync")) return -1; return real(file); }
int rename(const char *from, const char *to) {
    REAL(rename);
    if (below(to) && fails("rename")) return -1;
    return real(from, to);
}
int unlink(const char *path) { REAL(unlink); if (below(path) && fails("unlink")) return -1; return real(path); }
int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    if ((below(path) || known(at)) && fails("unlink")) return -1;
    return real(at, path, flags);
}
int rmdir(const char *path) { REAL(rmdir); if (below(path) && fails("rmdir")) return -1; return real(path); }
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (below(path) && fails("mkdir")) return -1;
    return real(path, mode);
}
