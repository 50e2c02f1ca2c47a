// Prompts as the models' own Jinja templates write them.
#include <lsaq/models/chat_template.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace chat_template_test {

using lsaq::apply_chat_template;
using lsaq::ChatFormat;
using lsaq::ChatMessage;
using Messages = std::vector<ChatMessage>;

const std::string plain_chatml = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
                                 "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// A ChatML template with a default system message; `line_break` as Jinja source: a real one, or \n.
std::string chatml_with_default(const std::string& line_break) {
  return "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system" + line_break +
         "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>" + line_break +
         "' }}{% endif %}{{'<|im_start|>' + message['role'] + '" + line_break + "' + message['content'] + '<|im_end|>' + '" + line_break +
         "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant" + line_break + "' }}{% endif %}";
}

const std::string llama2 =
    "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% endif %}{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif "
    "%}";

const std::string llama3 =
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}";

const Messages question = {{"user", "Hi"}};
const Messages conversation = {{"system", " Be \"brief\". "}, {"user", " Hi \n"}, {"assistant", " yo "}, {"user", "what's up"}};

std::string prompt_of(const std::string& chat_template, const Messages& messages, bool add_generation_prompt = true) {
  const auto prompt = apply_chat_template(chat_template, messages, {.bos = "<s>", .eos = "</s>", .add_generation_prompt = add_generation_prompt});
  EXPECT_TRUE(prompt.has_value());
  return prompt ? *prompt : "";
}

std::string refusal_of(const std::string& chat_template, const Messages& messages) {
  const auto prompt = apply_chat_template(chat_template, messages);
  EXPECT_FALSE(prompt.has_value());
  return prompt ? "" : prompt.error().message;
}

TEST(ChatTemplate, ChatmlAddsItsDefaultSystemMessage) {
  const std::string expected = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                               "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(prompt_of(chatml_with_default("\n"), question), expected);
  EXPECT_EQ(prompt_of(chatml_with_default("\\n"), question), expected);
}

TEST(ChatTemplate, ChatmlKeepsTheSystemMessageGiven) {
  EXPECT_EQ(prompt_of(chatml_with_default("\n"), conversation, false), "<|im_start|>system\n Be \"brief\". <|im_end|>\n<|im_start|>user\n Hi \n<|im_end|>\n"
                                                                       "<|im_start|>assistant\n yo <|im_end|>\n<|im_start|>user\nwhat's up<|im_end|>\n");
}

TEST(ChatTemplate, ChatmlWithoutDefault) { EXPECT_EQ(prompt_of(plain_chatml, question), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"); }

TEST(ChatTemplate, DefaultSystemMessageSkipsTheFrameOfAGivenOne) {
  const std::string frame = "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}";
  EXPECT_EQ(lsaq::default_system_message(frame), "");
  EXPECT_EQ(lsaq::default_system_message(frame + "{{- \"<|im_start|>system\\nIt's \\\"me\\\".<|im_end|>\\n\" }}"), "It's \"me\".");
  EXPECT_EQ(lsaq::default_system_message("<|im_start|>system\n{{ system }}<|im_end|>"), std::nullopt);
}

TEST(ChatTemplate, Llama2) {
  EXPECT_EQ(prompt_of(llama2, question), "<s>[INST] Hi [/INST]");
  EXPECT_EQ(prompt_of(llama2, conversation), "<s>[INST] <<SYS>>\n Be \"brief\". \n<</SYS>>\n\n Hi [/INST] yo </s><s>[INST] what's up [/INST]");
  EXPECT_THAT(refusal_of(llama2, {{"assistant", "x"}}), testing::HasSubstr("take turns"));
  EXPECT_THAT(refusal_of(llama2, {{"user", "x"}, {"user", "y"}}), testing::HasSubstr("take turns"));
}

TEST(ChatTemplate, Llama3) {
  EXPECT_EQ(prompt_of(llama3, question), "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(prompt_of(llama3, {{"system", " a "}, {"user", " \n"}}, false),
            "<s><|start_header_id|>system<|end_header_id|>\n\na<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n<|eot_id|>");
}

TEST(ChatTemplate, RecognisesFormats) {
  EXPECT_EQ(lsaq::chat_format_of(plain_chatml), ChatFormat::chatml);
  EXPECT_EQ(lsaq::chat_format_of(llama2), ChatFormat::llama2);
  EXPECT_EQ(lsaq::chat_format_of(llama3), ChatFormat::llama3);
  EXPECT_EQ(lsaq::chat_format_of(plain_chatml + "<think>"), std::nullopt);
  EXPECT_EQ(lsaq::chat_format_of(llama3 + "Cutting Knowledge Date: December 2023"), std::nullopt);
  EXPECT_EQ(lsaq::chat_format_of("{{ '[INST] ' + message['content'] + ' [/INST]' }}"), std::nullopt); // Mistral's has other spaces
  EXPECT_EQ(lsaq::chat_format_of(""), std::nullopt);
}

TEST(ChatTemplate, RefusesWithASentence) {
  EXPECT_THAT(refusal_of("{{ messages }}", question), testing::HasSubstr("unknown format"));
  EXPECT_THAT(refusal_of("", question), testing::HasSubstr("no chat template"));
  EXPECT_THAT(refusal_of(plain_chatml, {}), testing::HasSubstr("at least one message"));
}

} // namespace chat_template_test
