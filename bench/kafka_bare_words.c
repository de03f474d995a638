#include "bench/kafka_rungs.h"
int kafka_bare_words(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return 1;
}
