/*
 * What the simulated disk makes of unsynced bytes, sizes and names, each rule by its letter and
 * number (io_sim_disk.c D1–D6, io_sim_names.c N1–N4). All of it is power loss unless a test says
 * kill.
 */
#include "tests/unit/test_io_sim.h"

#include <errno.h>

/* ---- sectors and sizes ---- */

/* D1, D3, over chances of nothing, everything, and in between. */
START_TEST(test_unsynced_sectors_are_kept_dropped_or_garbled)
{
    enum { COUNT = 60 };
    static const struct {
        uint32_t keep, garble;
        bool kept, dropped, garbled; /* must be seen */
    } cases[] = {{0, 0, false, true, false},
                 {1000, 0, true, false, false},
                 {0, 1000, false, false, true},
                 {400, 300, true, true, true}};
    uint64_t size;

    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        bool kept = false;
        bool dropped = false;
        bool garbled = false;
        open_sim(seeded(11 + c, cases[c].keep, cases[c].garble));
        struct io_file *f = durable_file("/f", 'a', COUNT);
        fill(f, 'b', 10, COUNT - 20); /* the ends stay synced */
        ops->close(f);
        io_sim_power_loss(io);
        const uint8_t *bytes = bytes_of("/f", &size);
        ck_assert_uint_eq(size, COUNT * SECTOR);
        for (size_t s = 0; s < COUNT; s++) {
            char letter = letter_of(bytes, s);
            if (s < 10 || s >= COUNT - 10) {
                ck_assert_int_eq(letter, 'a'); /* D1 */
                continue;
            }
            kept = kept || letter == 'b';
            dropped = dropped || letter == 'a';
            garbled = garbled || letter == '?';
        }
        ck_assert_int_eq(kept, cases[c].kept);
        ck_assert_int_eq(dropped, cases[c].dropped);
        ck_assert_int_eq(garbled, cases[c].garbled);
        io_free(io);
    }
}
END_TEST

/* A write of part of a sector: what survives is the sector, old or new, never a mixture. */
START_TEST(test_a_sector_survives_whole)
{
    uint8_t model[SECTOR];
    uint64_t size;
    int kept = 0;

    for (uint64_t seed = 0; seed < 40; seed++) {
        open_sim(seeded(seed, 500, 0));
        struct io_file *f = durable_file("/f", 'a', 1);
        ck_assert_int_eq(try_write(f, "xyz", 3, 100), LEVEE_OK);
        ck_assert_int_eq(try_write(f, "uvw", 3, 400), LEVEE_OK);
        ops->close(f);
        io_sim_power_loss(io);
        const uint8_t *bytes = bytes_of("/f", &size);
        memset(model, 'a', sizeof model);
        if (bytes[100] != 'a') {
            memcpy(model + 100, "xyz", 3);
            memcpy(model + 400, "uvw", 3);
            kept++;
        }
        ck_assert_mem_eq(bytes, model, SECTOR);
        io_free(io);
    }
    ck_assert_int_gt(kept, 5);
    ck_assert_int_lt(kept, 35);
}
END_TEST

/* D4, D6, faults 32, 33: a grown file keeps its size or not, whatever becomes of its sectors. */
START_TEST(test_unsynced_size_is_kept_or_dropped)
{
    bool grown_with_data = false;
    bool grown_without = false;
    bool not_grown = false;
    uint64_t size;

    for (uint64_t seed = 0; seed < 60; seed++) {
        open_sim(seeded(seed, 500, 0));
        struct io_file *f = durable_file("/f", 'a', 2);
        fill(f, 'b', 2, 2);
        ops->close(f);
        io_sim_power_loss(io);
        const uint8_t *bytes = bytes_of("/f", &size);
        ck_assert(size == 2 * SECTOR || size == 4 * SECTOR);
        ck_assert_int_eq(letter_of(bytes, 0), 'a');
        for (size_t s = 2; s < size / SECTOR; s++) {
            char letter = letter_of(bytes, s);
            ck_assert(letter == 'b' || letter == '\0');
            grown_with_data = grown_with_data || letter == 'b';
            grown_without = grown_without || letter == '\0';
        }
        not_grown = not_grown || size == 2 * SECTOR;
        /* What was cut off does not come back when the file grows again. */
        f = must_open("/f", IO_WRITE);
        ck_assert_int_eq(ops->truncate(f, 8 * SECTOR, &err), LEVEE_OK);
        ops->close(f);
        bytes = bytes_of("/f", &size);
        ck_assert_int_eq(letter_of(bytes, 5), '\0');
        io_free(io);
    }
    ck_assert(grown_with_data);
    ck_assert(grown_without);
    ck_assert(not_grown);
}
END_TEST

/* D5: a truncation is dropped with all that was written behind it, or the old bytes are gone. */
START_TEST(test_truncation_takes_the_sectors_behind_it)
{
    bool dropped = false;
    bool kept = false;
    uint64_t size;

    for (uint64_t seed = 0; seed < 60; seed++) {
        open_sim(seeded(seed, 500, 0));
        struct io_file *f = durable_file("/f", 'a', 4);
        ck_assert_int_eq(ops->truncate(f, SECTOR, &err), LEVEE_OK);
        fill(f, 'b', 1, 2);
        ops->close(f);
        io_sim_power_loss(io);
        const uint8_t *bytes = bytes_of("/f", &size);
        ck_assert_int_eq(letter_of(bytes, 0), 'a');
        if (size == 4 * SECTOR) {
            dropped = true;
            for (size_t s = 1; s < 4; s++) {
                ck_assert_int_eq(letter_of(bytes, s), 'a');
            }
        } else {
            kept = true;
            ck_assert_uint_eq(size, 3 * SECTOR);
            for (size_t s = 1; s < 3; s++) {
                ck_assert(letter_of(bytes, s) == 'b' || letter_of(bytes, s) == '\0');
            }
        }
        io_free(io);
    }
    ck_assert(dropped);
    ck_assert(kept);
}
END_TEST

START_TEST(test_a_synced_truncation_is_durable)
{
    uint64_t size;

    open_sim(seeded(3, 0, 0));
    struct io_file *f = durable_file("/f", 'a', 4);
    ck_assert_int_eq(ops->truncate(f, 100, &err), LEVEE_OK);
    ck_assert_int_eq(ops->sync(f, &err), LEVEE_OK);
    ck_assert_int_eq(ops->truncate(f, 2 * SECTOR, &err), LEVEE_OK);
    ck_assert_int_eq(ops->sync(f, &err), LEVEE_OK);
    ops->close(f);
    io_sim_power_loss(io);
    const uint8_t *bytes = bytes_of("/f", &size);
    ck_assert_uint_eq(size, 2 * SECTOR);
    ck_assert_int_eq(bytes[99], 'a');
    ck_assert_int_eq(bytes[100], 0);
    ck_assert_int_eq(letter_of(bytes, 1), '\0');
    io_free(io);
}
END_TEST

/* D2, faults 38 and 39: one error, then silence; readable until the power goes; a rewrite saves it.
 */
START_TEST(test_a_failed_sync_loses_at_power_loss_only)
{
    uint64_t size;

    open_sim(seeded(1, 1000, 0)); /* even a disk that keeps everything has not got these */
    struct io_file *f = durable_file("/f", 'a', 4);
    fill(f, 'b', 1, 5); /* grows by two sectors */
    struct sim_faults faults = seeded(1, 1000, 0);
    faults.fail_at_step = 1;
    faults.fail_errno = EIO;
    io_sim_set_faults(io, &faults);
    ck_assert_int_eq(ops->sync(f, &err), LEVEE_EIO);
    ck_assert_int_eq(err.sys_errno, EIO);
    ck_assert_int_eq(letter_of(bytes_of("/f", &size), 1), 'b');
    fill(f, 'c', 2, 1); /* written again: this one the next sync does persist */
    ck_assert_int_eq(ops->sync(f, &err), LEVEE_OK);
    ops->close(f);
    io_sim_kill(io); /* the page cache outlives the process (fault 39) … */
    ck_assert_int_eq(letter_of(bytes_of("/f", &size), 1), 'b');
    ck_assert_uint_eq(size, 6 * SECTOR);
    io_sim_power_loss(io); /* … but not the power */
    const uint8_t *bytes = bytes_of("/f", &size);
    ck_assert_uint_eq(size, 4 * SECTOR);
    ck_assert_int_eq(letter_of(bytes, 0), 'a');
    ck_assert_int_eq(letter_of(bytes, 1), 'a');
    ck_assert_int_eq(letter_of(bytes, 2), 'c');
    ck_assert_int_eq(letter_of(bytes, 3), 'a');
    io_free(io);
}
END_TEST

/* Fault 29, and that syncs take their time (fault 48). */
START_TEST(test_lying_and_slow_syncs)
{
    uint64_t size;
    struct sim_faults faults = seeded(1, 0, 0);

    faults.slow_ns = 7000;
    open_sim(faults);
    uint64_t start = ops->now_ns(io);
    struct io_file *f = durable_file("/f", 'a', 2);
    ck_assert_uint_eq(ops->now_ns(io), start + 14000); /* file and directory */
    faults.lying_sync = true;
    io_sim_set_faults(io, &faults);
    fill(f, 'b', 0, 2);
    ck_assert_int_eq(ops->sync(f, &err), LEVEE_OK);
    ops->close(f);
    ck_assert_int_eq(ops->rename(io, "/f", "/g", &err), LEVEE_OK);
    ck_assert_int_eq(ops->sync_dir(io, "/", &err), LEVEE_OK);
    io_sim_power_loss(io);
    ck_assert_int_eq(letter_of(bytes_of("/f", &size), 0), 'a');
    ck_assert(!exists("/g"));
    io_free(io);
}
END_TEST

/* ---- names ---- */

/* N1, fault 35: the name needs its directory's sync, the data the file's, and neither does for the
 * other. */
START_TEST(test_name_and_data_are_two_things)
{
    uint64_t size;

    open_sim(seeded(1, 0, 0));
    struct io_file *f = must_open("/synced", IO_WRITE | IO_CREATE);
    fill(f, 'a', 0, 1);
    ck_assert_int_eq(ops->sync(f, &err), LEVEE_OK);
    ops->close(f);
    io_sim_power_loss(io);
    ck_assert(!exists("/synced"));

    f = must_open("/named", IO_WRITE | IO_CREATE);
    fill(f, 'a', 0, 1);
    ops->close(f);
    ck_assert_int_eq(ops->sync_dir(io, "/", &err), LEVEE_OK);
    io_sim_power_loss(io);
    (void)bytes_of("/named", &size); /* fault 34: a published file without its bytes */
    ck_assert_uint_eq(size, 0);
    io_free(io);
}
END_TEST

/* N2: survivors are a prefix in each directory, every pair of prefixes happens. */
START_TEST(test_a_prefix_of_each_directory_survives)
{
    enum { FILES = 3 };
    bool seen[FILES + 1][FILES + 1] = {{false}};
    static const char *const names[2][FILES] = {{"/x/1", "/x/2", "/x/3"}, {"/y/1", "/y/2", "/y/3"}};

    for (uint64_t seed = 0; seed < 400; seed++) {
        size_t survived[2] = {0, 0};
        open_sim(seeded(seed, 600, 0));
        ck_assert_int_eq(ops->mkdir(io, "/x", &err), LEVEE_OK);
        ck_assert_int_eq(ops->mkdir(io, "/y", &err), LEVEE_OK);
        ck_assert_int_eq(ops->sync_dir(io, "/", &err), LEVEE_OK);
        for (int i = 0; i < FILES; i++) {
            ops->close(must_open(names[0][i], IO_WRITE | IO_CREATE));
            ops->close(must_open(names[1][i], IO_WRITE | IO_CREATE));
        }
        io_sim_power_loss(io);
        for (int d = 0; d < 2; d++) {
            while (survived[d] < FILES && exists(names[d][survived[d]])) {
                survived[d]++;
            }
            for (size_t i = survived[d]; i < FILES; i++) {
                ck_assert_msg(!exists(names[d][i]), "seed %d: a hole", (int)seed);
            }
        }
        seen[survived[0]][survived[1]] = true;
        io_free(io);
    }
    for (int x = 0; x <= FILES; x++) {
        for (int y = 0; y <= FILES; y++) {
            ck_assert_msg(seen[x][y], "never %d and %d", x, y);
        }
    }
}
END_TEST

/* N3: a rename that replaces, within a directory (0) and across two (1), is whole or not at all. */
START_TEST(test_rename_is_atomic)
{
    static const char *const targets[] = {"/x/new", "/y/new"};
    const char *to = targets[_i];
    int moved = 0;
    uint64_t size;

    for (uint64_t seed = 0; seed < 60; seed++) {
        open_sim(seeded(seed, 500, 0));
        ck_assert_int_eq(ops->mkdir(io, "/x", &err), LEVEE_OK);
        ck_assert_int_eq(ops->mkdir(io, "/y", &err), LEVEE_OK);
        ops->close(durable_file("/x/old", 'o', 1));
        ops->close(durable_file(to, 'r', 1));
        ck_assert_int_eq(ops->sync_dir(io, "/x", &err), LEVEE_OK);
        ck_assert_int_eq(ops->sync_dir(io, "/y", &err), LEVEE_OK);
        ck_assert_int_eq(ops->rename(io, "/x/old", to, &err), LEVEE_OK);
        io_sim_power_loss(io);
        ck_assert(exists(to));
        char letter = letter_of(bytes_of(to, &size), 0);
        ck_assert_int_eq(letter, exists("/x/old") ? 'r' : 'o');
        moved += letter == 'o';
        io_free(io);
    }
    ck_assert_int_gt(moved, 10);
    ck_assert_int_lt(moved, 50);
}
END_TEST

/* N3: syncing either directory of a rename makes it durable, with what came before it in the other.
 */
START_TEST(test_syncing_one_side_of_a_rename_carries_the_other)
{
    static const char *const sides[] = {"/x", "/y"};

    open_sim(seeded(5, 0, 0));
    ck_assert_int_eq(ops->mkdir(io, "/x", &err), LEVEE_OK);
    ck_assert_int_eq(ops->mkdir(io, "/y", &err), LEVEE_OK);
    ck_assert_int_eq(ops->sync_dir(io, "/", &err), LEVEE_OK);
    ops->close(must_open("/x/before", IO_WRITE | IO_CREATE));
    ops->close(must_open("/y/before", IO_WRITE | IO_CREATE));
    ops->close(must_open("/x/f", IO_WRITE | IO_CREATE));
    ck_assert_int_eq(ops->rename(io, "/x/f", "/y/f", &err), LEVEE_OK);
    ops->close(must_open(_i == 0 ? "/y/after" : "/x/after", IO_WRITE | IO_CREATE));
    ck_assert_int_eq(ops->sync_dir(io, sides[_i], &err), LEVEE_OK);
    io_sim_power_loss(io);
    ck_assert(exists("/x/before"));
    ck_assert(exists("/y/before"));
    ck_assert(exists("/y/f"));
    ck_assert(!exists("/x/f"));
    ck_assert(!exists(_i == 0 ? "/y/after" : "/x/after")); /* came later, and was not synced */
    io_free(io);
}
END_TEST

/* N4. */
START_TEST(test_a_directory_without_a_name_takes_its_files_along)
{
    open_sim(seeded(5, 0, 0));
    ck_assert_int_eq(ops->mkdir(io, "/x", &err), LEVEE_OK);
    ck_assert_int_eq(ops->mkdir(io, "/x/y", &err), LEVEE_OK);
    ops->close(must_open("/x/y/f", IO_WRITE | IO_CREATE));
    ck_assert_int_eq(ops->sync_dir(io, "/x/y", &err), LEVEE_OK);
    ck_assert_int_eq(ops->sync_dir(io, "/x", &err), LEVEE_OK);
    io_sim_power_loss(io);
    ck_assert(!exists("/x"));
    ck_assert_uint_eq(io_sim_image_hash(io), 0); /* nothing is left, not even out of sight */
    ck_assert_int_eq(ops->mkdir(io, "/x", &err), LEVEE_OK);
    ck_assert(!exists("/x/y"));
    io_free(io);
}
END_TEST

/* Links and removals: a removed name comes back unless its directory was synced, with its bytes. */
START_TEST(test_unlink_and_link_are_journaled)
{
    uint64_t size;

    open_sim(seeded(5, 0, 0));
    ops->close(durable_file("/f", 'a', 3));
    ck_assert_int_eq(ops->link(io, "/f", "/g", &err), LEVEE_OK);
    ck_assert_int_eq(ops->unlink(io, "/f", &err), LEVEE_OK);
    ck_assert(!exists("/f"));
    io_sim_power_loss(io);
    ck_assert(!exists("/g"));
    ck_assert_int_eq(letter_of(bytes_of("/f", &size), 2), 'a');
    ck_assert_int_eq(ops->link(io, "/f", "/g", &err), LEVEE_OK);
    ck_assert_int_eq(ops->unlink(io, "/f", &err), LEVEE_OK);
    ck_assert_int_eq(ops->sync_dir(io, "/", &err), LEVEE_OK);
    io_sim_power_loss(io);
    ck_assert(!exists("/f"));
    ck_assert_int_eq(letter_of(bytes_of("/g", &size), 2), 'a');
    io_free(io);
}
END_TEST

/* Process death keeps all that was written, names too; power loss in the next life still takes it.
 */
START_TEST(test_kill_keeps_and_the_next_power_loss_takes)
{
    uint64_t size;

    open_sim(seeded(5, 0, 0));
    struct io_file *f = durable_file("/f", 'a', 1);
    fill(f, 'b', 0, 2);
    ops->close(f);
    ops->close(must_open("/new", IO_WRITE | IO_CREATE));
    io_sim_crash(io);
    io_sim_kill(io);
    ck_assert(!io_sim_crashed(io));
    ck_assert_int_eq(letter_of(bytes_of("/f", &size), 0), 'b');
    ck_assert_uint_eq(size, 2 * SECTOR);
    ck_assert(exists("/new"));
    io_sim_power_loss(io);
    ck_assert_int_eq(letter_of(bytes_of("/f", &size), 0), 'a');
    ck_assert_uint_eq(size, SECTOR);
    ck_assert(!exists("/new"));
    io_free(io);
}
END_TEST

/* ---- the fingerprint ---- */

START_TEST(test_image_hash_sees_names_sizes_and_bytes_only)
{
    static const char *const orders[2][2] = {{"/a", "/b"}, {"/b", "/a"}};
    uint64_t same[2];
    uint64_t size;

    for (int i = 0; i < 2; i++) {
        open_sim(seeded((uint64_t)i, 1000, 0));
        ops->close(durable_file(orders[i][0], 'x', 1));
        ops->close(durable_file(orders[i][1], 'x', 1));
        io_sim_kill(io);
        same[i] = io_sim_image_hash(io);
        if (i == 0) {
            io_free(io);
        }
    }
    ck_assert_uint_eq(same[0], same[1]);
    io_sim_bytes(io, "/a", &size)[100] ^= 4;
    io_sim_kill(io);
    uint64_t bit = io_sim_image_hash(io);
    ck_assert_uint_ne(bit, same[0]);
    ck_assert_int_eq(ops->rename(io, "/a", "/c", &err), LEVEE_OK);
    io_sim_kill(io);
    uint64_t renamed = io_sim_image_hash(io);
    ck_assert_uint_ne(renamed, bit);
    struct io_file *f = must_open("/c", IO_WRITE);
    ck_assert_int_eq(ops->truncate(f, SECTOR + 1, &err), LEVEE_OK);
    ops->close(f);
    io_sim_kill(io);
    ck_assert_uint_ne(io_sim_image_hash(io), renamed);
    io_free(io);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("io_sim_disk");
    TCase *disk = tcase_create("disk");
    TCase *names = tcase_create("names");

    tcase_add_test(disk, test_unsynced_sectors_are_kept_dropped_or_garbled);
    tcase_add_test(disk, test_a_sector_survives_whole);
    tcase_add_test(disk, test_unsynced_size_is_kept_or_dropped);
    tcase_add_test(disk, test_truncation_takes_the_sectors_behind_it);
    tcase_add_test(disk, test_a_synced_truncation_is_durable);
    tcase_add_test(disk, test_a_failed_sync_loses_at_power_loss_only);
    tcase_add_test(disk, test_lying_and_slow_syncs);
    tcase_add_test(disk, test_image_hash_sees_names_sizes_and_bytes_only);
    suite_add_tcase(suite, disk);
    tcase_add_test(names, test_name_and_data_are_two_things);
    tcase_add_test(names, test_a_prefix_of_each_directory_survives);
    tcase_add_loop_test(names, test_rename_is_atomic, 0, 2);
    tcase_add_loop_test(names, test_syncing_one_side_of_a_rename_carries_the_other, 0, 2);
    tcase_add_test(names, test_a_directory_without_a_name_takes_its_files_along);
    tcase_add_test(names, test_unlink_and_link_are_journaled);
    tcase_add_test(names, test_kill_keeps_and_the_next_power_loss_takes);
    suite_add_tcase(suite, names);
    return suite_main(suite);
}
