/* Asking the terminal: POSIX and Windows behind one interface. */
#if !defined(_WIN32) && !defined(_POSIX_C_SOURCE) && !defined(__APPLE__)
#define _DEFAULT_SOURCE 1
#define _POSIX_C_SOURCE 200809L
#endif
#include "base/terminal.h"

#include <string.h>

#include "base/file.h"

#ifdef _WIN32
#include <windows.h>

bool fvlm_terminal_size(int *columns, int *rows)
{
    CONSOLE_SCREEN_BUFFER_INFO info;
    if (!GetConsoleScreenBufferInfo(GetStdHandle(STD_OUTPUT_HANDLE), &info))
        return false;
    *columns = info.srWindow.Right - info.srWindow.Left + 1;
    *rows = info.srWindow.Bottom - info.srWindow.Top + 1;
    return true;
}

bool fvlm_terminal_ask(const char *query, char last, unsigned milliseconds, char *reply, size_t size)
{
    (void)query;
    (void)last;
    (void)milliseconds;
    if (size > 0)
        reply[0] = '\0';
    return false;
}

#else
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

bool fvlm_terminal_size(int *columns, int *rows)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0)
        return false;
    *columns = size.ws_col;
    *rows = size.ws_row;
    return true;
}

/* True where the last escape sequence of `reply` is a control sequence that ends in `last`. */
static bool is_complete(const char *reply, char last)
{
    const char *escape = strrchr(reply, '\033');
    return escape && escape[1] == '[' && reply[strlen(reply) - 1] == last;
}

/* Read until the reply is complete, the time is over, or there is no more room. */
static bool read_reply(int terminal, char last, unsigned milliseconds, char *reply, size_t size)
{
    double end_ms = fvlm_clock_ms() + milliseconds;
    size_t got = 0;
    while (got + 1 < size) {
        double left_ms = end_ms - fvlm_clock_ms();
        struct pollfd wait = {.fd = terminal, .events = POLLIN};
        if (left_ms <= 0 || poll(&wait, 1, (int)left_ms + 1) != 1 || read(terminal, reply + got, 1) != 1)
            return false;
        reply[++got] = '\0';
        if (is_complete(reply, last))
            return true;
    }
    return false;
}

bool fvlm_terminal_ask(const char *query, char last, unsigned milliseconds, char *reply, size_t size)
{
    if (size == 0)
        return false;
    reply[0] = '\0';
    int terminal = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0)
        return false;
    struct termios before;
    bool answered = false;
    /* A process in the background would be stopped by the change. */
    if (tcgetpgrp(terminal) == getpgrp() && tcgetattr(terminal, &before) == 0) {
        struct termios raw = before;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        raw.c_cc[VMIN] = 1;
        raw.c_cc[VTIME] = 0;
        size_t length = strlen(query);
        /* A signal that ends or stops the process waits until the terminal is as it was. */
        sigset_t all, mask;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &mask);
        if (tcsetattr(terminal, TCSANOW, &raw) == 0) {
            answered = write(terminal, query, length) == (ssize_t)length &&
                       read_reply(terminal, last, milliseconds, reply, size);
            tcsetattr(terminal, TCSANOW, &before);
        }
        pthread_sigmask(SIG_SETMASK, &mask, NULL);
    }
    close(terminal);
    return answered;
}

#endif
