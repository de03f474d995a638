/* Shared by the tests of the simulated machine: one simulator at a time, files of whole sectors. */
#ifndef LEVEE_TESTS_IO_SIM_H
#define LEVEE_TESTS_IO_SIM_H

#include "tests/support/suite.h"

#include "io/io.h"

#define SECTOR 512

static struct io *io;
static const struct io_ops *ops;
static struct levee_error err;

static inline void open_sim(struct sim_faults faults)
{
    ck_assert_int_eq(io_sim_new(&faults, &io, &err), LEVEE_OK);
    ops = io->ops;
}

static inline struct io_file *must_open(const char *path, int flags)
{
    struct io_file *f = NULL;

    ck_assert_int_eq(ops->open(io, path, flags, &f, &err), LEVEE_OK);
    return f;
}

static inline int try_write(struct io_file *f, const void *data, size_t len, uint64_t offset)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};

    return ops->pwritev(f, &iov, 1, offset, &err);
}

/* count sectors of one letter from sector `first` on */
static inline void fill(struct io_file *f, char letter, size_t first, size_t count)
{
    uint8_t bytes[64 * SECTOR];

    memset(bytes, letter, count * SECTOR);
    ck_assert_int_eq(try_write(f, bytes, count * SECTOR, first * SECTOR), LEVEE_OK);
}

/* A file of `count` sectors of one letter, durable with its name. */
static inline struct io_file *durable_file(const char *path, char letter, size_t count)
{
    struct io_file *f = must_open(path, IO_WRITE | IO_CREATE);

    fill(f, letter, 0, count);
    ck_assert_int_eq(ops->sync(f, &err), LEVEE_OK);
    ck_assert_int_eq(ops->sync_dir(io, "/", &err), LEVEE_OK);
    return f;
}

static inline bool exists(const char *path)
{
    struct io_stat st;

    ck_assert_int_eq(ops->stat(io, path, &st, &err), LEVEE_OK);
    return st.kind != IO_NONE;
}

static inline const uint8_t *bytes_of(const char *path, uint64_t *ret_size)
{
    const uint8_t *bytes = io_sim_bytes(io, path, ret_size);

    ck_assert_ptr_nonnull(bytes);
    return bytes;
}

/* The letter of a uniform sector; '?' when its bytes differ. */
static inline char letter_of(const uint8_t *bytes, size_t sector)
{
    for (size_t i = 1; i < SECTOR; i++) {
        if (bytes[sector * SECTOR + i] != bytes[sector * SECTOR]) {
            return '?';
        }
    }
    return (char)bytes[sector * SECTOR];
}

static inline struct sim_faults seeded(uint64_t seed, uint32_t keep, uint32_t garble)
{
    return (struct sim_faults){.seed = seed, .keep_per_mille = keep, .garble_per_mille = garble};
}

static inline void reseed(uint64_t seed, uint32_t keep, uint32_t garble)
{
    struct sim_faults faults = seeded(seed, keep, garble);

    io_sim_set_faults(io, &faults);
}

#endif
