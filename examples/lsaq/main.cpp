// The lsaq command: importance, plan, quantized run and evaluation of a model from its file. See docs/command.md.
#include "console.hpp"

#include <lsaq/error.hpp>

#include <CLI/CLI.hpp>

#include <fmt/format.h>

#include <new>

#define LSAQ_TEXT_OF(x) #x
#define LSAQ_TEXT(x) LSAQ_TEXT_OF(x)

namespace {

int report(const char* sentence, int code) {
  fmt::print(stderr, "lsaq: {}\n", sentence);
  return code;
}

} // namespace

int main(int argc, char** argv) {
  CLI::App app{"Fits a large language model into the memory that is free now: layer importance, bits per layer, quantized weights, text.", "lsaq"};
  app.set_version_flag("--version", "lsaq " LSAQ_TEXT(LSAQ_VERSION_MAJOR) "." LSAQ_TEXT(LSAQ_VERSION_MINOR) "." LSAQ_TEXT(LSAQ_VERSION_PATCH));
  app.require_subcommand(1);
  app.get_formatter()->column_width(28);
  app.footer("MODEL is a GGUF file or a Hugging Face folder (config.json and safetensors).\n"
             "Exit codes: 0 done, 2 wrong usage, 3 does not fit, 4 bad input file, 5 I/O failed, 130 interrupted.");
  command::Global global;
  command::add_inspect(app, global);
  command::add_devices(app, global);
  command::add_importance(app, global);
  command::add_plan(app, global);
  command::add_run(app, global);
  command::add_eval(app, global);

  try {
    command::catch_interrupts();
    app.parse(argc, argv);
    return command::done;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error); // --help, --version
    fmt::print(stderr, "lsaq: {} (lsaq {}--help tells more)\n", error.what(),
               app.get_subcommands().empty() ? "" : app.get_subcommands().front()->get_name() + " ");
    return command::wrong_usage;
  } catch (const command::Interrupted&) {
    return report("interrupted", command::interrupted);
  } catch (const lsaq::Infeasible& error) {
    return report(error.what(), command::does_not_fit);
  } catch (const lsaq::InvalidArgument& error) {
    return report(error.what(), command::wrong_usage);
  } catch (const lsaq::BadInput& error) {
    return report(error.what(), command::bad_input);
  } catch (const lsaq::IoError& error) {
    return report(error.what(), command::io_failed);
  } catch (const std::bad_alloc&) {
    return report("out of memory: the system refused an allocation; free memory or set a smaller --memory", command::does_not_fit);
  } catch (const std::exception& error) {
    return report(error.what(), command::io_failed);
  }
}
